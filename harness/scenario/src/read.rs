//! Reads a tree of nodes into types by serde, reporting every mistake instead of the first.
//!
//! The wrapper [`Field`] is what makes that possible: it takes the error of one value, which was
//! reported with its place when it arose, and lets its neighbours be read all the same.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::UsizeDeserializer;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::sink::{Sink, word_hint};
use crate::yaml::{Node, Span, Value};

const FIELD: &str = "$field";
const MANY: &str = "$many";

/// Reads the root of a file.
pub(crate) fn read<'a, T: Deserialize<'a>>(root: &'a Node, sink: &'a Sink<'a>) -> Field<T> {
    Field::deserialize(Reader { node: root, sink }).unwrap_or_default()
}

/// A value with its place: absent, wrong (and reported), or read.
pub(crate) struct Field<T> {
    span: Option<Span>,
    value: Option<T>,
}

impl<T> Default for Field<T> {
    fn default() -> Self {
        Self { span: None, value: None }
    }
}

impl<T> Field<T> {
    /// The place; the file's start when absent.
    pub(crate) fn span(&self) -> Span {
        self.span.unwrap_or(Span::START)
    }

    /// Whether the file has the key at all.
    pub(crate) fn is_present(&self) -> bool {
        self.span.is_some()
    }

    /// The place, when the file has the key.
    pub(crate) fn present_span(&self) -> Option<Span> {
        self.span
    }

    /// The value, when it is there and right.
    pub(crate) fn as_ref(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// The value, when it is there and right.
    pub(crate) fn get(self) -> Option<T> {
        self.value
    }

    /// The value with its place, when it is there and right.
    pub(crate) fn spanned(self) -> Option<(Span, T)> {
        self.span.zip(self.value)
    }

    /// The value; when the key is missing, that is reported at `owner`.
    pub(crate) fn required(
        self,
        owner: Span,
        phrase: &str,
        key: &str,
        sink: &Sink<'_>,
    ) -> Option<T> {
        if self.span.is_none() {
            sink.report(owner, format!("{phrase} needs the key `{key}`"), None);
        }
        self.value
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldVisitor<T> {
            type Value = Field<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value with its place")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Field<T>, A::Error> {
                let mut part = || Ok(parts.next_element::<usize>()?.unwrap_or(1));
                let span = Span { line: part()?, column: part()?, width: part()? };
                // An error here was reported by the access itself.
                let value = parts.next_element().unwrap_or_default();
                Ok(Field { span: Some(span), value })
            }
        }
        deserializer.deserialize_newtype_struct(FIELD, FieldVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// One value, or a list of them.
pub(crate) struct Many<T>(pub(crate) Vec<Field<T>>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ManyVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ManyVisitor<T> {
            type Value = Many<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Many<T>, A::Error> {
                let mut many = Vec::new();
                while let Some(item) = items.next_element()? {
                    many.push(item);
                }
                Ok(Many(many))
            }
        }
        deserializer.deserialize_newtype_struct(MANY, ManyVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Many<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Many{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

/// A map with keys of the user's choice, in the order of the file.
pub(crate) struct Entries<T>(pub(crate) Vec<(Field<String>, Field<T>)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
            type Value = Entries<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Entries{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<T>() })
    }
}

/// A value that is written as one piece of text.
pub(crate) trait FromText: Sized {
    /// Name of its schema, such as `Duration`.
    const NAME: &str;
    /// Reads it. An error is one line; a hint may follow after a newline.
    fn from_text(text: &str) -> Result<Self, String>;
    /// What an editor checks: a schema of a scalar.
    fn schema() -> Schema;
}

/// Reads a [`FromText`].
pub(crate) struct Of<T>(pub(crate) T);

impl<'de, T: FromText> Deserialize<'de> for Of<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::from_text(&text).map(Of).map_err(de::Error::custom)
    }
}

impl<T: FromText> JsonSchema for Of<T> {
    fn schema_name() -> Cow<'static, str> {
        T::NAME.into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        T::schema()
    }
}

/// A value that is one of a few words.
pub(crate) trait Words: Copy + 'static {
    /// Name of its schema.
    const NAME: &str;
    /// Such as `a unit`.
    const PHRASE: &str;
    /// Every word with its meaning.
    fn words() -> Vec<(&'static str, Self)>;
}

impl<T: Words> FromText for T {
    const NAME: &str = <T as Words>::NAME;
    fn from_text(text: &str) -> Result<Self, String> {
        let words = T::words();
        if let Some(&(_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(value);
        }
        let hint = word_hint(text, words.iter().map(|(word, _)| *word)).unwrap_or_default();
        Err(format!("`{text}` is not {}\n{hint}", T::PHRASE))
    }
    fn schema() -> Schema {
        let words: Vec<&str> = T::words().iter().map(|(word, _)| *word).collect();
        json_schema!({ "enum": words })
    }
}

/// An error on its way to the place that knows its position: the message and, after a newline, a
/// hint. `None` when it has been reported already.
#[derive(Debug)]
pub(crate) struct Error(Option<String>);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("already reported"))
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Some(message.to_string()))
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match unexpected {
            de::Unexpected::Seq => "a list",
            de::Unexpected::Map => "a map",
            _ => "something else",
        };
        Self(Some(format!("expected {expected}, found {found}")))
    }
}

/// Deserializer of one node.
#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
    sink: &'a Sink<'a>,
}

impl<'a> Reader<'a> {
    fn at(self, node: &'a Node) -> Self {
        Self { node, ..self }
    }

    fn wrong(self, expected: &dyn fmt::Display) -> Error {
        Error(Some(match &self.node.value {
            Value::Null => format!("no value: expected {expected}"),
            value => format!("expected {expected}, found {}", value.phrase()),
        }))
    }

    fn scalar(self, expected: &dyn fmt::Display) -> Result<&'a str, Error> {
        match &self.node.value {
            Value::Scalar(text) => Ok(text),
            _ => Err(self.wrong(expected)),
        }
    }

    /// Deserializes and, on an error that nobody has placed yet, reports it here.
    fn placed<S: DeserializeSeed<'a>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self).map_err(|error| {
            if let Some(text) = error.0 {
                let (message, hint) = match text.split_once('\n') {
                    Some((message, hint)) => (message, Some(hint).filter(|hint| !hint.is_empty())),
                    None => (text.as_str(), None),
                };
                self.sink.report(self.node.span, message, hint.map(str::to_owned));
            }
            Error(None)
        })
    }

    fn number<T: std::str::FromStr>(self) -> Result<T, Error> {
        let text = self.scalar(&"a whole number")?;
        text.parse().map_err(|_| Error(Some(format!("`{text}` is not a whole number that fits"))))
    }
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Null => Err(self.wrong(&(&visitor as &dyn Expected))),
            Value::Scalar(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(Items { reader: self, items: items.iter() }),
            Value::Map(entries) => visitor.visit_map(Pairs::new(self, entries, None)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.scalar(&"true or false")? {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            text => Err(Error(Some(format!("`{text}` is neither true nor false")))),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u64(self.number()?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.scalar(&"text")?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::List(items) => visitor.visit_seq(Items { reader: self, items: items.iter() }),
            _ => Err(self.wrong(&"a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Map(entries) => visitor.visit_map(Pairs::new(self, entries, None)),
            _ => Err(self.wrong(&"a map")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let phrase = (&visitor as &dyn Expected).to_string();
        let Value::Map(entries) = &self.node.value else {
            return Err(self.wrong(&format_args!("{phrase} (a map)")));
        };
        let phrase = refined(&phrase, entries);
        for (key, _) in entries {
            if let Value::Scalar(name) = &key.value
                && !fields.contains(&name.as_str())
            {
                let message = format!("unknown key `{name}` in {phrase}");
                self.sink.report_word(key.span, message, name, fields.iter().copied());
            }
        }
        visitor.visit_map(Pairs::new(self, entries, Some(fields)))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        match (name, &self.node.value) {
            (FIELD, _) => visitor.visit_seq(Placed { reader: self, part: 0 }),
            (MANY, Value::List(items)) => {
                visitor.visit_seq(Items { reader: self, items: items.iter() })
            }
            (MANY, _) => {
                let items = std::slice::from_ref(self.node).iter();
                visitor.visit_seq(Items { reader: self, items })
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char bytes byte_buf unit unit_struct tuple
        tuple_struct enum
    }
}

/// `a step` with its verb, when it has one: `a measure step`.
fn refined(phrase: &str, entries: &[(Node, Node)]) -> String {
    if phrase == "a step" {
        for (key, _) in entries {
            if let Value::Scalar(name) = &key.value
                && crate::raw::VERBS.contains(&name.as_str())
            {
                return format!("a {name} step");
            }
        }
    }
    phrase.to_owned()
}

/// Items of a list.
struct Items<'a> {
    reader: Reader<'a>,
    items: std::slice::Iter<'a, Node>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        self.items.next().map(|item| self.reader.at(item).placed(seed)).transpose()
    }
}

/// Entries of a map; those not among `fields` are left out.
struct Pairs<'a> {
    reader: Reader<'a>,
    entries: std::slice::Iter<'a, (Node, Node)>,
    fields: Option<&'static [&'static str]>,
    value: Option<&'a Node>,
}

impl<'a> Pairs<'a> {
    fn new(
        reader: Reader<'a>,
        entries: &'a [(Node, Node)],
        fields: Option<&'static [&'static str]>,
    ) -> Self {
        Self { reader, entries: entries.iter(), fields, value: None }
    }
}

impl<'de> MapAccess<'de> for Pairs<'de> {
    type Error = Error;
    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        for (key, value) in self.entries.by_ref() {
            let Value::Scalar(name) = &key.value else { continue };
            if self.fields.is_none_or(|fields| fields.contains(&name.as_str())) {
                self.value = Some(value);
                return self.reader.at(key).placed(seed).map(Some);
            }
        }
        Ok(None)
    }
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        match self.value.take() {
            Some(value) => self.reader.at(value).placed(seed),
            None => Err(de::Error::custom("a value without a key")),
        }
    }
}

/// The parts of a [`Field`]: line, column, width, value.
struct Placed<'a> {
    reader: Reader<'a>,
    part: usize,
}

impl<'de> SeqAccess<'de> for Placed<'de> {
    type Error = Error;
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Span { line, column, width } = self.reader.node.span;
        let part = self.part;
        self.part += 1;
        match [line, column, width].get(part) {
            Some(&number) => {
                let number: UsizeDeserializer<Error> = number.into_deserializer();
                seed.deserialize(number).map(Some)
            }
            None => self.reader.placed(seed).map(Some),
        }
    }
}
