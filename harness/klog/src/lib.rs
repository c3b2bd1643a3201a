//! Console bytes to findings: one rule table, one streaming parser.
