//! JUnit, JSON, Markdown and terminal reports of a run.
