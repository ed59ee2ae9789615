//! The codec of arguments, replies and state: JSON, with one encoding for one value.
//!
//! Encoded: UTF-8, no spaces, keys of objects sorted by their bytes and never twice, only those characters escaped that
//! must be. Integers are exact from -2^63 to 2^64-1; other numbers are kept as they were written and never computed
//! with. Decoding takes any JSON with these numbers up to 32 levels deep, and refuses the rest with the place where it
//! broke.
//!
//! Absent: floats, and conversion to types; [`Args`](crate::Args) takes fields apart.

use crate::{Failure, JSON_DEPTH_MAX};

/// One JSON value.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Json {
    /// `null`
    #[default]
    Null,
    /// `true`, `false`
    Bool(bool),
    /// An integer from 0.
    Uint(u64),
    /// An integer below 0.
    Int(i64),
    /// Any other number, as text.
    Number(String),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// An object, sorted by key.
    Object(Vec<(String, Json)>),
    /// What [`encode`](Json::encode) gave, to be written as it is: nothing is spent on reading it. Never decoded to.
    Raw(Vec<u8>),
}

/// An object of these fields. Fields whose value is [`Json::Null`] are left out: absent and null are one.
pub fn object<const N: usize>(fields: [(&str, Json); N]) -> Json {
    let mut fields: Vec<(String, Json)> = fields
        .into_iter()
        .filter(|(_, value)| *value != Json::Null)
        .map(|(name, value)| (name.into(), value))
        .collect();
    sort(&mut fields);
    Json::Object(fields)
}

/// Unstable: names differ, or the object is refused; and a stable sort is a fifth of a small component.
fn sort(fields: &mut [(String, Json)]) {
    fields.sort_unstable_by(|a, b| a.0.cmp(&b.0));
}

macro_rules! from {
    ($($type:ty, $value:ident => $json:expr;)*) => {
        $(impl From<$type> for Json {
            fn from($value: $type) -> Json {
                $json
            }
        })*
    };
}

from! {
    bool, value => Json::Bool(value);
    u64, value => Json::Uint(value);
    u32, value => Json::Uint(u64::from(value));
    i64, value => u64::try_from(value).map_or(Json::Int(value), Json::Uint);
    &str, value => Json::Text(value.into());
    String, value => Json::Text(value);
    Vec<Json>, value => Json::List(value);
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Json {
        value.map_or(Json::Null, Into::into)
    }
}

impl Json {
    /// A field of an object; `Null` where there is none.
    #[must_use]
    pub fn get(&self, name: &str) -> &Json {
        const NULL: &Json = &Json::Null;
        match self {
            Json::Object(fields) => {
                fields.binary_search_by(|(key, _)| key.as_str().cmp(name)).map_or(NULL, |at| &fields[at].1)
            }
            _ => NULL,
        }
    }

    /// Sets a field of an object; `Null` removes it. On anything else it does nothing.
    pub fn set(&mut self, name: &str, value: impl Into<Json>) {
        let Json::Object(fields) = self else { return };
        let value = value.into();
        match (fields.binary_search_by(|(key, _)| key.as_str().cmp(name)), value) {
            (Ok(at), Json::Null) => drop(fields.remove(at)),
            (Err(_), Json::Null) => {}
            (Ok(at), value) => fields[at].1 = value,
            (Err(at), value) => fields.insert(at, (name.into(), value)),
        }
    }

    /// As text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        if let Json::Text(text) = self {
            Some(text)
        } else {
            None
        }
    }

    /// As an integer from 0.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        if let Json::Uint(number) = self {
            Some(*number)
        } else {
            None
        }
    }

    /// As an integer.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Json::Uint(number) => i64::try_from(*number).ok(),
            Json::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// As a truth value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        if let Json::Bool(value) = self {
            Some(*value)
        } else {
            None
        }
    }

    /// As a list.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Json]> {
        if let Json::List(items) = self {
            Some(items)
        } else {
            None
        }
    }

    /// The one encoding of this value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Json::Null => out.extend_from_slice(b"null"),
            Json::Bool(true) => out.extend_from_slice(b"true"),
            Json::Bool(false) => out.extend_from_slice(b"false"),
            Json::Uint(number) => write_number(*number, out),
            Json::Int(number) => {
                if *number < 0 {
                    out.push(b'-');
                }
                write_number(number.unsigned_abs(), out);
            }
            Json::Number(text) => out.extend_from_slice(text.as_bytes()),
            Json::Raw(bytes) => out.extend_from_slice(bytes),
            Json::Text(text) => write_text(text, out),
            Json::List(items) => {
                out.push(b'[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Json::Object(fields) => {
                out.push(b'{');
                for (at, (name, value)) in fields.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    write_text(name, out);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }

    /// Reads one value and nothing after it.
    ///
    /// # Errors
    /// `BadArguments` with what was expected at which byte.
    pub fn decode(bytes: &[u8]) -> Result<Json, Failure> {
        let mut reader = Reader { bytes, at: 0 };
        let value = reader.value(0)?;
        reader.space();
        if reader.at < bytes.len() {
            Err(reader.expected("the end"))
        } else {
            Ok(value)
        }
    }

    /// Reads state that a recipe wrote itself.
    ///
    /// # Errors
    /// `Internal`: nobody else writes there.
    pub fn stored(bytes: &[u8]) -> Result<Json, Failure> {
        Json::decode(bytes).map_err(|why| Failure::internal(format!("stored state does not read: {}", why.detail)))
    }
}

/// Decimal digits, without the machinery of formatting, which is most of a small component.
fn write_number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// How many bytes from the start of these stand in text as they are: neither quote nor backslash nor control character.
///
/// Eight at a time (the usual trick with borrows, Hacker's Delight 6-1), because fuel is counted by the instruction and
/// payloads are most of what a recipe reads and writes.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let special = |word: u64| {
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        (zero(word ^ (ONES * 0x22)) | zero(word ^ (ONES * 0x5c)) | control) & HIGH != 0
    };
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..at + 8) {
        if special(u64::from_le_bytes(chunk.try_into().unwrap_or([0; 8]))) {
            break;
        }
        at += 8;
    }
    let rest = bytes[at..].iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f));
    at + rest.count()
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (as_it_is, after) = rest.split_at(plain(rest));
        out.extend_from_slice(as_it_is);
        let Some((&byte, after)) = after.split_first() else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
        rest = after;
    }
    out.push(b'"');
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn expected(&self, what: &str) -> Failure {
        Failure::bad_arguments(format!("not JSON: expected {what} at byte {}", self.at))
    }

    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    /// Takes this byte after spaces.
    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == byte;
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, Failure> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.expected("a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn value(&mut self, depth: usize) -> Result<Json, Failure> {
        if depth > JSON_DEPTH_MAX {
            return Err(Failure::bad_arguments(format!("JSON too deep: limit {JSON_DEPTH_MAX} levels")));
        }
        self.space();
        match self.peek() {
            b'{' => self.object(depth),
            b'[' => self.list(depth),
            b'"' => self.text().map(Json::Text),
            b't' => self.word("true", Json::Bool(true)),
            b'f' => self.word("false", Json::Bool(false)),
            b'n' => self.word("null", Json::Null),
            _ => self.number(),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Json, Failure> {
        self.at += 1;
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.take(b']') {
                return Ok(Json::List(items));
            }
            if !self.take(b',') {
                return Err(self.expected("`,` or `]`"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, Failure> {
        self.at += 1;
        let mut fields: Vec<(String, Json)> = Vec::new();
        if self.take(b'}') {
            return Ok(Json::Object(fields));
        }
        loop {
            self.space();
            if self.peek() != b'"' {
                return Err(self.expected("a field's name"));
            }
            let name = self.text()?;
            if !self.take(b':') {
                return Err(self.expected("`:`"));
            }
            fields.push((name, self.value(depth + 1)?));
            if self.take(b'}') {
                break;
            }
            if !self.take(b',') {
                return Err(self.expected("`,` or `}`"));
            }
        }
        sort(&mut fields);
        match fields.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(Failure::bad_arguments(format!("the field `{}` is given twice", pair[0].0))),
            None => Ok(Json::Object(fields)),
        }
    }

    fn digits(&mut self) -> Result<(), Failure> {
        let from = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        if self.at == from {
            Err(self.expected("a digit"))
        } else {
            Ok(())
        }
    }

    fn number(&mut self) -> Result<Json, Failure> {
        let from = self.at;
        let negative = self.peek() == b'-';
        self.at += usize::from(negative);
        let first = self.at;
        if !self.peek().is_ascii_digit() {
            return Err(self.expected("a value"));
        }
        self.digits()?;
        if self.bytes[first] == b'0' && self.at > first + 1 {
            self.at = first;
            return Err(self.expected("a number without leading zeros"));
        }
        let integer = self.at;
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), b'+' | b'-'));
            self.digits()?;
        }
        let text = std::str::from_utf8(&self.bytes[from..self.at]).map_err(|_| self.expected("a number"))?;
        let exact = if self.at > integer {
            None
        } else if negative {
            // -0 is 0.
            text.parse::<i64>().ok().map(Json::from)
        } else {
            text.parse::<u64>().ok().map(Json::Uint)
        };
        Ok(exact.unwrap_or_else(|| Json::Number(text.into())))
    }

    fn text(&mut self) -> Result<String, Failure> {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let from = self.at;
            self.at += plain(&self.bytes[from..]);
            out.extend_from_slice(&self.bytes[from..self.at]);
            match self.peek() {
                b'"' => break,
                b'\\' => self.escape(&mut out)?,
                _ => return Err(self.expected("a character or `\"`")),
            }
        }
        self.at += 1;
        String::from_utf8(out).map_err(|_| self.expected("UTF-8"))
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        self.at += 1;
        let plain = match self.peek() {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 8,
            b'f' => 12,
            escaped @ (b'"' | b'\\' | b'/') => escaped,
            b'u' => {
                self.at += 1;
                let high = self.unit()?;
                let code = if (0xd800..0xdc00).contains(&high) && self.bytes[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    let low = self.unit()?;
                    if !(0xdc00..0xe000).contains(&low) {
                        return Err(self.expected("the second half of a character"));
                    }
                    0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
                } else {
                    high
                };
                let character = char::from_u32(code).ok_or_else(|| self.expected("a character"))?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(self.expected("an escape")),
        };
        out.push(plain);
        self.at += 1;
        Ok(())
    }

    /// Four hexadecimal digits.
    fn unit(&mut self) -> Result<u32, Failure> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = char::from(self.peek()).to_digit(16).ok_or_else(|| self.expected("four hexadecimal digits"))?;
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(text: &str) -> String {
        String::from_utf8(Json::decode(text.as_bytes()).expect(text).encode()).expect("UTF-8")
    }

    #[test]
    fn one_value_has_one_encoding() {
        for (given, wanted) in [
            (" { \"b\" : [ 1 , -2 ] , \"a\" : null } ", r#"{"a":null,"b":[1,-2]}"#),
            (r#""\u00e4\ud83d\ude00\u0001\/\b\n""#, "\"ä😀\\u0001/\\u0008\\n\""),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("18446744073709551616", "18446744073709551616"),
            ("-0", "0"),
            ("1.50e+3", "1.50e+3"),
            ("[]", "[]"),
            ("{}", "{}"),
        ] {
            assert_eq!(round(given), wanted);
            assert_eq!(round(wanted), wanted, "canonical text stays");
        }
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_place() {
        for (given, place) in [
            ("", "a value at byte 0"),
            ("{\"a\":1,}", "a field's name at byte 7"),
            ("[1 2]", "`,` or `]` at byte 3"),
            ("01", "leading zeros at byte 0"),
            ("1.", "a digit at byte 2"),
            ("\"\\ud800x\"", "a character at byte 7"),
            ("\"a", "a character or `\"` at byte 2"),
            ("{} {}", "the end at byte 3"),
            ("tru", "a value at byte 0"),
            ("NaN", "a value at byte 0"),
        ] {
            let why = Json::decode(given.as_bytes()).expect_err(given);
            assert!(why.detail.contains(place), "{given}: {}", why.detail);
        }
        assert!(Json::decode(b"\"\xff\"").is_err());
        assert!(Json::decode(r#"{"a":1,"a":2}"#.as_bytes()).expect_err("twice").detail.contains("`a` is given twice"));
    }

    #[test]
    fn text_of_any_length_and_content_comes_back() {
        for byte in 0..=255u32 {
            for length in 0..20 {
                for place in 0..length {
                    let special = char::from_u32(byte).expect("Latin-1");
                    let text: String = (0..length).map(|at| if at == place { special } else { 'x' }).collect();
                    let json = Json::Text(text);
                    assert_eq!(Json::decode(&json.encode()).expect("our own"), json);
                }
            }
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Json::decode(nested(33).as_bytes()).is_ok());
        assert!(Json::decode(nested(34).as_bytes()).expect_err("too deep").detail.contains("limit 32"));
        assert!(Json::decode("[".repeat(1_000_000).as_bytes()).is_err());
    }

    #[test]
    fn fields_are_set_and_removed_in_order() {
        let mut json = object([("b", 1u64.into()), ("a", Json::Null)]);
        json.set("a", "x");
        json.set("c", true);
        json.set("b", Json::Null);
        assert_eq!(json.encode(), br#"{"a":"x","c":true}"#);
        assert_eq!((json.get("a").as_text(), json.get("z")), (Some("x"), &Json::Null));
    }
}
