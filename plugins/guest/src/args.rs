//! Arguments of a call: an object whose fields are taken one by one, and of which nothing may be left.
//!
//! Field `v`, where given, is the version of the codec and of the method's arguments; there is version 1. An empty
//! argument is an empty object. What is missing, of another type, out of range or unknown is refused by name.

use crate::{context, key, Failure, Json, Owner, META_MAX_BYTES, WAIT_MAX_MS};

/// The only version that there is.
const VERSION: u64 = 1;

/// Arguments that were not taken yet.
#[derive(Debug)]
pub struct Args {
    fields: Vec<(String, Json)>,
    /// Bytes of all of them.
    size: usize,
}

impl Args {
    /// Reads arguments.
    ///
    /// # Errors
    /// `BadArguments`: no object, or of a version that is not spoken.
    pub fn decode(bytes: &[u8]) -> Result<Args, Failure> {
        let value = if bytes.is_empty() { Json::Object(Vec::new()) } else { Json::decode(bytes)? };
        let Json::Object(fields) = value else {
            return Err(Failure::bad_arguments("arguments are a JSON object, such as {\"key\":\"a\"}"));
        };
        let mut args = Args { fields, size: bytes.len() };
        match args.number("v", 1..=u64::MAX)? {
            None | Some(VERSION) => Ok(args),
            Some(other) => {
                Err(Failure::bad_arguments(format!("version {other} of the arguments; spoken is {VERSION}")))
            }
        }
    }

    /// The fields of an object among these arguments, to be taken like them.
    ///
    /// # Errors
    /// `BadArguments`: no object.
    pub fn of(&self, value: Json) -> Result<Args, Failure> {
        match value {
            Json::Object(fields) => Ok(Args { fields, size: self.size }),
            _ => Err(Failure::bad_arguments("a list of objects is wanted")),
        }
    }

    /// Refuses what nobody has taken.
    ///
    /// # Errors
    /// `BadArguments` with its name.
    pub fn finish(&self) -> Result<(), Failure> {
        match self.fields.first() {
            Some((name, _)) => Err(Failure::bad_arguments(format!("unknown argument `{name}`"))),
            None => Ok(()),
        }
    }

    /// Any value; null is none.
    pub fn json(&mut self, name: &str) -> Option<Json> {
        let at = self.fields.iter().position(|(field, _)| field == name)?;
        Some(self.fields.remove(at).1).filter(|value| *value != Json::Null)
    }

    /// Any value up to 4 KiB: what is shown to others.
    ///
    /// # Errors
    /// `BadArguments`: larger.
    pub fn meta(&mut self, name: &str) -> Result<Option<Json>, Failure> {
        self.bounded(name, META_MAX_BYTES)
    }

    /// Any value up to so many bytes, encoded.
    ///
    /// # Errors
    /// `BadArguments`: larger.
    pub fn bounded(&mut self, name: &str, limit: usize) -> Result<Option<Json>, Failure> {
        let value = self.json(name);
        // Encoding costs fuel, and what is part of a small call is small.
        if self.size <= limit {
            return Ok(value);
        }
        match value.as_ref().map(|value| value.encode().len()).filter(|length| *length > limit) {
            Some(length) => Err(Failure::bad_arguments(format!("`{name}` too large: {length} bytes, limit {limit}"))),
            None => Ok(value),
        }
    }

    /// Text that may be missing.
    ///
    /// # Errors
    /// `BadArguments`: no text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Failure> {
        match self.json(name) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(text)),
            Some(_) => Err(Failure::bad_arguments(format!("`{name}` is text"))),
        }
    }

    /// An integer in a range that may be missing.
    ///
    /// # Errors
    /// `BadArguments`: no integer, or out of range.
    pub fn number(&mut self, name: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, Failure> {
        match self.json(name) {
            None => Ok(None),
            Some(Json::Uint(number)) if range.contains(&number) => Ok(Some(number)),
            Some(_) => {
                Err(Failure::bad_arguments(format!("`{name}` is an integer from {} to {}", range.start(), range.end())))
            }
        }
    }

    /// A signed integer that may be missing.
    ///
    /// # Errors
    /// `BadArguments`: no integer of 64 bits.
    pub fn integer(&mut self, name: &str) -> Result<Option<i64>, Failure> {
        match self.json(name) {
            None => Ok(None),
            Some(value) => {
                let wrong = || Failure::bad_arguments(format!("`{name}` is an integer of 64 bits"));
                value.as_i64().map(Some).ok_or_else(wrong)
            }
        }
    }

    /// A truth value; missing is false.
    ///
    /// # Errors
    /// `BadArguments`: neither true nor false.
    pub fn flag(&mut self, name: &str) -> Result<bool, Failure> {
        match self.json(name) {
            None => Ok(false),
            Some(Json::Bool(value)) => Ok(value),
            Some(_) => Err(Failure::bad_arguments(format!("`{name}` is true or false"))),
        }
    }

    /// What must be there.
    ///
    /// # Errors
    /// `BadArguments`: it is not.
    pub fn need<T>(&self, name: &str, value: Option<T>) -> Result<T, Failure> {
        value.ok_or_else(|| Failure::bad_arguments(format!("`{name}` is missing")))
    }

    /// The key in field `name`: one segment of a path.
    ///
    /// # Errors
    /// `BadArguments`: missing, or no key.
    pub fn key(&mut self, name: &str) -> Result<String, Failure> {
        let text = self.text(name)?;
        let text = self.need(name, text)?;
        key(name, &text)?;
        Ok(text)
    }

    /// The caller's session with the id in field `holder`, drawn by the caller for each acquire.
    ///
    /// # Errors
    /// `BadArguments`: missing, or no holder id.
    pub fn owner(&mut self) -> Result<Owner, Failure> {
        let holder = self.text("holder")?;
        let holder = self.need("holder", holder)?;
        Owner::new(context::session()?, &holder)
    }

    /// How long the caller waits, from field `wait-ms`.
    ///
    /// # Errors
    /// `BadArguments`: longer than 30 days.
    pub fn wait(&mut self) -> Result<Wait, Failure> {
        Ok(match self.number("wait-ms", 0..=WAIT_MAX_MS)? {
            None => Wait::Forever,
            Some(0) => Wait::Never,
            Some(wait) => Wait::Until(context::now_ms().saturating_add(wait)),
        })
    }
}

/// How long a caller waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: `would-block` is the answer.
    Never,
    /// Until this replicated time.
    Until(u64),
    /// As long as its session lives.
    Forever,
}

impl Wait {
    /// The deadline of a parked call.
    ///
    /// # Errors
    /// `WouldBlock` with this detail, for a caller that does not wait.
    pub fn deadline(self, busy: impl FnOnce() -> String) -> Result<Option<u64>, Failure> {
        match self {
            Wait::Never => Err(Failure::would_block(busy())),
            Wait::Until(deadline) => Ok(Some(deadline)),
            Wait::Forever => Ok(None),
        }
    }
}
