//! The file as values of our own, each with the place where it stands.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) type Table = BTreeMap<String, Entry>;

/// A key and its value.
#[derive(Debug)]
pub(super) struct Entry {
    /// Byte offset of the key.
    pub(super) key_start: usize,
    pub(super) node: Node,
}

/// A value.
#[derive(Debug)]
pub(super) struct Node {
    /// Byte offset.
    pub(super) start: usize,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    String(String),
    /// `Err` holds the digits of what does not fit.
    Integer(Result<i64, String>),
    Float(String),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Node>),
    Table(Table),
}

pub(super) fn table(table: DeTable<'_>) -> Table {
    let entry = |(key, value): (Spanned<_>, Spanned<_>)| {
        let key_start = key.span().start;
        (
            std::borrow::Cow::into_owned(key.into_inner()),
            Entry {
                key_start,
                node: node(value),
            },
        )
    };
    table.into_iter().map(entry).collect()
}

fn node(value: Spanned<DeValue<'_>>) -> Node {
    let start = value.span().start;
    let value = match value.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(number) => {
            Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| number.as_str().to_owned()))
        }
        DeValue::Float(number) => Value::Float(number.as_str().to_owned()),
        DeValue::Boolean(yes) => Value::Boolean(yes),
        DeValue::Datetime(time) => Value::Datetime(time.to_string()),
        DeValue::Array(items) => Value::Array(items.into_iter().map(node).collect()),
        DeValue::Table(entries) => Value::Table(table(entries)),
    };
    Node { start, value }
}

// === impl Value ===

impl Value {
    /// What it is, for "is …, not …".
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::Datetime(_) => "a date",
            Self::Array(_) => "a list",
            Self::Table(_) => "a section",
        }
    }

    /// As it would be written, shortened; `None` for sections and lists of them.
    pub(super) fn shown(&self) -> Option<String> {
        const MOST: usize = 80;
        let text = match self {
            Self::String(text) => format!("{text:?}"),
            Self::Integer(Ok(number)) => number.to_string(),
            Self::Integer(Err(text)) | Self::Float(text) | Self::Datetime(text) => text.clone(),
            Self::Boolean(yes) => yes.to_string(),
            Self::Array(items) => {
                let items: Option<Vec<_>> = items.iter().map(|item| item.value.shown()).collect();
                format!("[{}]", items?.join(", "))
            }
            Self::Table(_) => return None,
        };
        if text.chars().count() <= MOST {
            return Some(text);
        }
        Some(text.chars().take(MOST).chain(['…']).collect())
    }
}
