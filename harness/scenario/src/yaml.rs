//! YAML text to a tree of nodes that know their positions.
//!
//! A subset on purpose: one document, text keys, no anchors, no aliases, no tags. What a file means
//! is what it shows, and no file can grow while it is read.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span as ParserSpan, StrInput};

use crate::sink::Sink;

/// Largest file, in bytes.
const FILE_BOUND: usize = 1 << 20;
/// Deepest nesting: the deepest that any of our formats needs is 8.
const DEPTH_BOUND: usize = 32;

/// A place in a file: what the marks of a mistake stand under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in characters.
    pub(crate) column: usize,
    /// Characters on that line, at least 1.
    pub(crate) width: usize,
}

impl Span {
    /// Where a file begins.
    pub(crate) const START: Self = Self { line: 1, column: 1, width: 1 };

    fn at(mark: Marker) -> Self {
        Self { line: mark.line(), column: mark.col() + 1, width: 1 }
    }

    fn of(span: ParserSpan) -> Self {
        let same_line = span.start.line() == span.end.line();
        let width =
            if same_line { span.end.col().saturating_sub(span.start.col()).max(1) } else { 1 };
        Self { width, ..Self::at(span.start) }
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Any scalar: what it means is up to the reader.
    Scalar(String),
    List(Vec<Node>),
    /// Keys are scalars, each there once.
    Map(Vec<(Node, Node)>),
}

impl Value {
    /// What it is, for a message.
    pub(crate) fn phrase(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// The one document in `text`; `None` when a mistake was reported that leaves nothing to read.
pub(crate) fn parse(text: &str, sink: &Sink<'_>) -> Option<Node> {
    if text.len() > FILE_BOUND {
        sink.report(Span::START, format!("file is larger than {FILE_BOUND} bytes"), None);
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder { parser: Parser::new_from_str(text), sink };
    match builder.document() {
        Ok(root) => root,
        Err((span, message)) => {
            sink.report(span, message, None);
            None
        }
    }
}

type Stop = (Span, String);

struct Builder<'a, 'input> {
    parser: Parser<'input, StrInput<'input>>,
    sink: &'a Sink<'a>,
}

impl<'input> Builder<'_, 'input> {
    fn next(&mut self) -> Result<(Event<'input>, ParserSpan), Stop> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                Err((Span::at(*error.marker()), format!("not YAML: {}", error.info())))
            }
            None => Ok((Event::StreamEnd, ParserSpan::default())),
        }
    }

    fn document(&mut self) -> Result<Option<Node>, Stop> {
        let mut root = None;
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => break,
                (Event::StreamStart | Event::DocumentEnd | Event::Nothing, _) => {}
                (Event::DocumentStart(_), span) => {
                    if root.is_some() {
                        return Err((Span::of(span), "a second document in one file".into()));
                    }
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span, 0)?);
                }
                (_, span) => return Err((Span::of(span), "unexpected content".into())),
            }
        }
        if root.as_ref().is_none_or(|root| matches!(root.value, Value::Null)) {
            return Err((Span::START, "file is empty".into()));
        }
        Ok(root)
    }

    fn node(&mut self, event: Event<'input>, span: ParserSpan, depth: usize) -> Result<Node, Stop> {
        let place = Span::of(span);
        if depth > DEPTH_BOUND {
            return Err((place, format!("nested deeper than {DEPTH_BOUND} levels")));
        }
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag),
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => (*anchor, tag),
            _ => (1, &None),
        };
        if anchor != 0 {
            return Err((
                place,
                "anchors and aliases are not supported: write the value out".into(),
            ));
        }
        if tag.is_some() {
            return Err((place, "tags are not supported".into()));
        }
        match event {
            Event::Scalar(text, style, ..) => {
                let plain = style == ScalarStyle::Plain;
                let value = if plain && matches!(&*text, "" | "~" | "null") {
                    Value::Null
                } else {
                    Value::Scalar(text.into_owned())
                };
                Ok(Node { span: place, value })
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                Ok(Node { span: place, value: Value::List(items) })
            }
            Event::MappingStart(..) => self.map(place, depth),
            _ => Err((place, "unexpected end of a value".into())),
        }
    }

    fn map(&mut self, place: Span, depth: usize) -> Result<Node, Stop> {
        let mut entries: Vec<(Node, Node)> = Vec::new();
        let mut seen: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => break,
                (event, span) => self.node(event, span, depth + 1)?,
            };
            let Value::Scalar(name) = &key.value else {
                return Err((key.span, format!("a key must be text, not {}", key.value.phrase())));
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            if let Some(line) = seen.get(name) {
                let hint = Some(format!("first given in line {line}"));
                self.sink.report(key.span, format!("`{name}` is given twice"), hint);
                continue;
            }
            seen.insert(name.clone(), key.span.line);
            entries.push((key, value));
        }
        // A block map begins where its first key does: mark that key whole.
        let span = match entries.first() {
            Some((key, _)) if (key.span.line, key.span.column) == (place.line, place.column) => {
                key.span
            }
            _ => Span { width: 1, ..place },
        };
        Ok(Node { span, value: Value::Map(entries) })
    }
}
