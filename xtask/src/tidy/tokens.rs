//! Rust source as a flat list of what the rules look for, without comments, strings and tests.

use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Something in the source that a rule can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A path, also one that a `use` brings in, by its segments.
    Path(Vec<String>),
    /// The name of a macro that is called.
    Macro(String),
    /// A method that is called: `name()`, or `name(…)` when it is given something.
    Method(String),
}

struct Token {
    text: String,
    line: usize,
}

/// Every item outside `#[cfg(test)]`, with its line; or the line where it stops being Rust.
pub(super) fn items(source: &str) -> Result<Vec<(usize, Item)>, usize> {
    let stream = TokenStream::from_str(source).map_err(|error| error.span().start().line)?;
    let mut tokens = Vec::new();
    flatten(stream, &mut tokens);
    let tokens = without_tests(tokens);
    let mut items = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at = if tokens[at].text == "use" && !is(&tokens, at + 1, "<") {
            use_tree(&tokens, at + 1, &[], &mut items)
        } else {
            one(&tokens, at, &mut items)
        };
    }
    Ok(items)
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(Token { text: open.to_owned(), line });
                flatten(group.stream(), tokens);
                let line = group.span_close().start().line;
                tokens.push(Token { text: close.to_owned(), line });
            }
            // What is in a literal is not code; its place still counts.
            TokenTree::Literal(_) => tokens.push(Token { text: "\"\"".to_owned(), line }),
            TokenTree::Ident(ident) => tokens.push(Token { text: ident.to_string(), line }),
            TokenTree::Punct(punct) => tokens.push(Token { text: punct.to_string(), line }),
        }
    }
}

fn is(tokens: &[Token], at: usize, text: &str) -> bool {
    tokens.get(at).is_some_and(|token| token.text == text)
}

fn is_ident(tokens: &[Token], at: usize) -> bool {
    tokens.get(at).is_some_and(|t| t.text.starts_with(|c: char| c.is_alphabetic() || c == '_'))
}

fn is_double_colon(tokens: &[Token], at: usize) -> bool {
    is(tokens, at, ":") && is(tokens, at + 1, ":")
}

/// Leaves out every item under `#[cfg(test)]`: up to its `;` or the end of its braces.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::with_capacity(tokens.len());
    let mut skipping = false;
    let mut depth = 0usize;
    let mut mark = 0;
    for token in tokens {
        if skipping {
            match token.text.as_str() {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth = depth.saturating_sub(1),
                _ => {}
            }
            skipping = depth > 0 || !["}", ";"].contains(&token.text.as_str());
            continue;
        }
        mark = match &token.text {
            text if text == MARK[mark] => mark + 1,
            text if text == MARK[0] => 1,
            _ => 0,
        };
        kept.push(token);
        if mark == MARK.len() {
            kept.truncate(kept.len() - MARK.len());
            (skipping, depth, mark) = (true, 0, 0);
        }
    }
    kept
}

/// Reads the item at `at` and answers where the next one may start.
fn one(tokens: &[Token], at: usize, items: &mut Vec<(usize, Item)>) -> usize {
    let line = tokens[at].line;
    if is(tokens, at, ".") && is_ident(tokens, at + 1) {
        if is(tokens, at + 2, "(") {
            let arguments = if is(tokens, at + 3, ")") { "()" } else { "(…)" };
            let Token { text, line } = &tokens[at + 1];
            items.push((*line, Item::Method(format!("{text}{arguments}"))));
        }
        return at + 2;
    }
    if !is_ident(tokens, at) {
        return at + 1;
    }
    let mut segments = vec![tokens[at].text.clone()];
    let mut next = at + 1;
    while is_double_colon(tokens, next) && is_ident(tokens, next + 2) {
        segments.push(tokens[next + 2].text.clone());
        next += 3;
    }
    if is(tokens, next, "!") && !is(tokens, next + 1, "=") {
        items.extend(segments.last().map(|name| (line, Item::Macro(name.clone()))));
    }
    items.push((line, Item::Path(segments)));
    next
}

/// Reads one branch of a `use`, whose way so far is `prefix`.
fn use_tree(
    tokens: &[Token],
    mut at: usize,
    prefix: &[String],
    items: &mut Vec<(usize, Item)>,
) -> usize {
    let mut path = prefix.to_vec();
    let mut line = tokens.get(at).map_or(0, |token| token.line);
    loop {
        if is_double_colon(tokens, at) {
            at += 2;
        } else if is(tokens, at, "{") {
            at += 1;
            while at < tokens.len() && !is(tokens, at, "}") {
                at = use_tree(tokens, at, &path, items);
                at += usize::from(is(tokens, at, ","));
            }
            return at + 1;
        } else if is(tokens, at, "as") {
            at += 2;
        } else if is_ident(tokens, at) || is(tokens, at, "*") {
            line = tokens[at].line;
            path.push(tokens[at].text.clone());
            at += 1;
        } else {
            items.push((line, Item::Path(path)));
            // A token that belongs to no `use` must not be met again.
            let ends = [",", "}", ";"].iter().any(|end| is(tokens, at, end));
            return at + usize::from(!ends || is(tokens, at, ";"));
        }
    }
}
