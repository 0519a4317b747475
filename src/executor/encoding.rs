//! Clients that do not write UTF-8, over several shards: see [`crate::session::encoding`].
//!
//! Rows go to the client as the servers encode them. What the proxy itself has to read of them, or of parameters, is
//! read in UTF-8 only where that is certain; otherwise the statement is refused.

use bytes::Bytes;

use super::values::StatementValues;
use super::{Failure, Session};
use crate::error::{ClientError, ErrorId};
use crate::net::{Framed, NetError};
use crate::plan::{ColumnRef, CopyPlan, KeyPart, MergeSpec, Plan, Route, Slot};
use crate::planner::Values;
use crate::reshard::Touch;
use crate::session::ClientEncoding;
use crate::session::encoding::to_ascii;
use crate::topology::KeyType;
use crate::wire::Format;
use crate::wire::client_message;
use crate::wire::frame::Frame;
use crate::wire::server_message::Field;

/// Types whose text is ASCII, whatever the value is: bool, bytea, int8, int2, int4, oid, float4, float8, money, date,
/// time, timestamp, timestamptz, interval, timetz, numeric, uuid.
const ASCII_TYPES: &[u32] = &[16, 17, 20, 21, 23, 26, 700, 701, 790, 1082, 1083, 1114, 1184, 1186, 1266, 1700, 2950];

impl Session {
    /// A message of the client's with its text in ASCII, if it writes in another encoding than UTF-8. `None`: it was
    /// refused, and the client was told.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn receive(&mut self, client: &mut Framed, frame: Frame) -> Result<Option<Frame>, NetError> {
        self.text_made = None;
        if self.encoding.is_utf8() || !matches!(frame.tag, b'Q' | b'P') {
            return Ok(Some(frame));
        }
        let body = frame.body();
        // A Parse begins with the statement's name.
        let start = if frame.tag == b'Q' { 0 } else { end_of_text(&body, 0).map_or(body.len(), |end| end + 1) };
        let Some(end) = end_of_text(&body, start) else { return Ok(Some(frame)) };
        let text = body.get(start..end).unwrap_or_default();
        if text.is_ascii() {
            return Ok(Some(frame));
        }
        match self.ascii_of(client, text).await {
            Ok(ascii) => {
                let (before, after) = (body.get(..start), body.get(end..));
                let parts = [before.unwrap_or_default(), ascii.as_bytes(), after.unwrap_or_default()];
                Ok(Some(client_message::frame(frame.tag, &parts)))
            }
            Err(failure) if frame.tag == b'Q' => {
                self.refuse_query(client, failure).await?;
                Ok(None)
            }
            Err(failure) => {
                self.pipeline_failed(client, failure).await?;
                Ok(None)
            }
        }
    }

    async fn ascii_of(&mut self, client: &mut Framed, text: &[u8]) -> Result<String, Failure> {
        if self.skip_to_sync || self.transaction.is_failed() {
            // Nothing of it runs, unless it ends the transaction; and no server would convert it now.
            return Ok(text.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }).collect());
        }
        let text = String::from_utf8(self.decoded(client, text).await?)
            .map_err(|_| ClientError::new(ErrorId::Internal, "a server gave a text that is not UTF-8"))?;
        let made = to_ascii(&text).map_err(|error| ClientError::new(ErrorId::SyntaxError, error.to_string()))?;
        let made = made.ok_or_else(|| self.beyond_encoding("a text that cannot be written in ASCII"))?;
        let ascii = made.text().to_owned();
        self.text_made = Some((made, text));
        Ok(ascii)
    }

    /// Bytes of the client's as UTF-8, by PostgreSQL's own conversion.
    async fn decoded(&mut self, client: &mut Framed, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        self.refresh_topology(|_| Touch::NOTHING).await?;
        let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let sql = format!(
            "SELECT pg_catalog.encode(pg_catalog.convert_to(pg_catalog.convert_from(\
             pg_catalog.decode('{hexadecimal}', 'hex'), '{}'), 'UTF8'), 'hex')",
            self.encoding.name()
        );
        let answer = self.ask_any(client, &sql).await?;
        let digits = answer.as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        digits.map(byte).collect::<Option<Vec<u8>>>().ok_or_else(|| {
            ClientError::new(ErrorId::Internal, "a server did not convert a text as it was asked to").into()
        })
    }

    /// Parameters that decide a route and are texts: their hash is that of UTF-8.
    pub(super) async fn decode_keys(
        &mut self,
        client: &mut Framed,
        plan: &Plan,
        values: &mut StatementValues<'_>,
    ) -> Result<(), Failure> {
        let of_route: &[_] = if let Route::Keys(tuples) = &plan.route { tuples } else { &[] };
        let of_rows = plan.insert.iter().flat_map(|insert| &insert.rows).flat_map(|row| &row.key);
        let keys: Vec<KeyPart> = of_route.iter().flat_map(|tuple| &tuple.parts).chain(of_rows).cloned().collect();
        for key in keys.iter().filter(|key| is_text(key.key_type)) {
            let Slot::Param(number) = key.slot else { continue };
            let Some(param) = values.param(number) else { continue };
            let Some(bytes) = param.bytes.filter(|bytes| !bytes.is_ascii()) else { continue };
            if key.is_array && param.format == Format::Binary {
                return Err(self.beyond_encoding("an array of sharding keys in binary").into());
            }
            if values.decoded.contains_key(&number) {
                continue;
            }
            let bytes = bytes.to_vec();
            let decoded = self.decoded(client, &bytes).await?;
            values.decoded.insert(number, Bytes::from(decoded));
        }
        Ok(())
    }

    /// A value that the proxy has to understand.
    ///
    /// # Errors
    /// It is not ASCII, and not in UTF-8 either.
    pub(super) fn must_be_readable(&self, value: &[u8]) -> Result<(), ClientError> {
        if self.encoding.is_utf8() || value.is_ascii() {
            return Ok(());
        }
        Err(self.beyond_encoding("a value that the proxy has to read"))
    }

    /// What cannot be done in the client's encoding.
    pub(super) fn beyond_encoding(&self, what: &str) -> ClientError {
        refusal(&self.encoding, what)
    }

    /// Whether the data of a COPY can be taken apart or put together.
    ///
    /// # Errors
    /// Its bytes may not be what they seem, or the shard of a row hangs on a text.
    pub(super) fn may_copy(&self, copy: &CopyPlan) -> Result<(), ClientError> {
        if self.encoding.is_utf8() {
            return Ok(());
        }
        if !self.encoding.is_exact() {
            return Err(self.beyond_encoding("COPY of several shards"));
        }
        if copy.from && copy.key.iter().any(|(_, key_type)| is_text(*key_type)) {
            return Err(self.beyond_encoding("COPY to a table whose sharding key is a text"));
        }
        Ok(())
    }
}

fn refusal(encoding: &ClientEncoding, what: &str) -> ClientError {
    ClientError::refused(
        format!("{what} is not supported across shards with client_encoding {}", encoding.name()),
        "Set client_encoding to UTF8, or restrict the statement to one sharding key.",
    )
}

fn is_text(key_type: KeyType) -> bool {
    matches!(key_type, KeyType::Text | KeyType::Varchar | KeyType::Bpchar)
}

fn end_of_text(body: &[u8], start: usize) -> Option<usize> {
    Some(start + memchr::memchr(0, body.get(start..)?)?)
}

/// Whether rows of this encoding can be merged.
///
/// # Errors
/// Texts would be compared, and their bytes do not tell what UTF-8's would.
pub(super) fn may_merge(encoding: &ClientEncoding, spec: &MergeSpec, fields: &[Field]) -> Result<(), ClientError> {
    if encoding.is_utf8() {
        return Ok(());
    }
    let is_text = |field: &Field| !ASCII_TYPES.contains(&field.type_oid);
    let visible = fields.len().saturating_sub(spec.hidden);
    let column = |column: ColumnRef| match column {
        ColumnRef::Visible(index) => fields.get(index),
        ColumnRef::Hidden(index) => fields.get(visible + index),
    };
    let has_condition = spec.aggregate.as_ref().is_some_and(|aggregate| aggregate.having.is_some());
    if has_condition && fields.iter().any(is_text) {
        // What texts are compared with was written in UTF-8.
        return Err(refusal(encoding, "HAVING with texts"));
    }
    if encoding.keeps_order() {
        return Ok(());
    }
    if spec.order.iter().any(|key| column(key.column).is_none_or(is_text)) {
        return Err(refusal(encoding, "ORDER BY of a text"));
    }
    if spec.distinct && !encoding.is_exact() && fields.iter().any(is_text) {
        return Err(refusal(encoding, "DISTINCT over texts"));
    }
    if spec.aggregate.is_some() && fields.iter().any(is_text) {
        return Err(refusal(encoding, "an aggregate with texts"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::OrderKey;

    fn merges(encoding: &str, spec: &MergeSpec, types: &[u32]) -> bool {
        let fields: Vec<Field> = types.iter().map(|oid| Field { type_oid: *oid, ..Field::text("a") }).collect();
        may_merge(&ClientEncoding::of(Some(encoding)), spec, &fields).is_ok()
    }

    #[test]
    fn texts_are_compared_only_where_their_bytes_tell_the_truth() {
        let key =
            OrderKey { column: ColumnRef::Hidden(0), descending: false, nulls_first: false, text_is_bytewise: true };
        let ordered = MergeSpec { hidden: 1, order: vec![key], ..MergeSpec::default() };
        assert!(merges("win1251", &ordered, &[25, 23]));
        assert!(!merges("win1251", &ordered, &[23, 25]));
        assert!(merges("latin1", &ordered, &[23, 25]));
        let distinct = MergeSpec { distinct: true, ..MergeSpec::default() };
        assert!(merges("win1251", &distinct, &[25]));
        assert!(!merges("sjis", &distinct, &[25]));
        assert!(merges("sjis", &distinct, &[20]));
        assert!(merges("sjis", &MergeSpec::default(), &[25]));
    }
}
