//! The one spelling that a value has in the log: JSON without blanks, keys in the order of their bytes, no fractions.

use aws_lc_rs::digest;
use serde_json::Value;

/// `value` in its one spelling. None if it has a number that is not whole, or does not fit 64 bits.
pub fn canonical(value: &Value) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(512);
    write(value, &mut text)?;
    Some(text)
}

// By hand, so that it does not depend on how the maps of serde_json are ordered in this build.
fn write(value: &Value, text: &mut Vec<u8>) -> Option<()> {
    match value {
        Value::Null => text.extend(b"null"),
        Value::Bool(true) => text.extend(b"true"),
        Value::Bool(false) => text.extend(b"false"),
        Value::Number(number) if number.is_f64() => return None,
        Value::Number(number) => text.extend(number.to_string().into_bytes()),
        Value::String(string) => write_string(string, text),
        Value::Array(items) => {
            text.push(b'[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    text.push(b',');
                }
                write(item, text)?;
            }
            text.push(b']');
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| name.as_str());
            text.push(b'{');
            for (place, (name, field)) in sorted.into_iter().enumerate() {
                if place > 0 {
                    text.push(b',');
                }
                write_string(name, text);
                text.push(b':');
                write(field, text)?;
            }
            text.push(b'}');
        }
    }
    Some(())
}

fn write_string(string: &str, text: &mut Vec<u8>) {
    serde_json::to_writer(text, string).expect("a string is JSON, and a Vec takes any bytes");
}

/// SHA-256 of the parts, one after the other.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_has_one_spelling() {
        let value = json!({ "b": [1, -2, true, null], "a": { "é": "\"\n\u{1}", "Z": 18_446_744_073_709_551_615u64 } });
        let text = canonical(&value).unwrap();
        let expected = r#"{"a":{"Z":18446744073709551615,"é":"\"\n\u0001"},"b":[1,-2,true,null]}"#;
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        assert_eq!(canonical(&json!([1.5])), None);
    }
}
