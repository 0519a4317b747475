//! Taking SCRAM's messages apart.

use crate::error::{ClientError, ErrorId};

/// Why a message cannot be read; the text is PostgreSQL's.
pub(super) fn malformed(detail: impl Into<String>) -> ClientError {
    ClientError::new(ErrorId::ProtocolViolation, "malformed SCRAM message").with_detail(detail)
}

/// What is left of a message.
pub(super) struct Reader<'m> {
    rest: &'m str,
}

impl<'m> Reader<'m> {
    /// Messages are text without NUL.
    pub(super) fn new(message: &'m [u8]) -> Result<Self, ClientError> {
        if message.is_empty() {
            return Err(malformed("The message is empty."));
        }
        if message.contains(&0) {
            return Err(malformed("Message length does not match input length."));
        }
        let rest = std::str::from_utf8(message).map_err(|_| malformed("The message is not UTF-8."))?;
        Ok(Self { rest })
    }

    /// Everything that was not read.
    pub(super) fn rest(&self) -> &'m str {
        self.rest
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// One character that must stand here.
    pub(super) fn expect(&mut self, wanted: char) -> Result<(), ClientError> {
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(malformed(format!("Character \"{wanted}\" expected."))),
        }
    }

    /// Goes behind a text that stands here.
    pub(super) fn skip(&mut self, text: &str) {
        self.rest = self.rest.strip_prefix(text).unwrap_or(self.rest);
    }

    /// The value of `name=value`, up to the next comma, which is taken too.
    pub(super) fn attribute(&mut self, name: char) -> Result<&'m str, ClientError> {
        let value = self
            .rest
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('='))
            .ok_or_else(|| malformed(format!("Attribute \"{name}\" expected.")))?;
        let (value, rest) = value.split_once(',').unwrap_or((value, ""));
        self.rest = rest;
        Ok(value)
    }

    /// The next attribute, whatever its name.
    pub(super) fn any_attribute(&mut self) -> Result<(char, &'m str), ClientError> {
        let name = self.peek().filter(char::is_ascii_alphabetic);
        let name = name.ok_or_else(|| malformed("Attribute expected, but found an invalid character."))?;
        Ok((name, self.attribute(name)?))
    }
}

/// The characters of a nonce: printable ASCII without the comma.
pub(super) fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b',')
}
