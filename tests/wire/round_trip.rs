//! What is encoded is decoded to the same, for every message of both directions.

use bytes::{Bytes, BytesMut};
use ostrakon::wire::client_message::{self as client, Bind, ClientMessage, Parse, Target};
use ostrakon::wire::frame::{self, Frame};
use ostrakon::wire::server_message::{self as server, Field, tag};
use ostrakon::wire::startup::{self, StartupPacket};
use ostrakon::wire::{Format, limits};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::check;

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>().prop_filter("no NUL", |character| *character != '\0'), 0..12)
        .prop_map(|characters| characters.into_iter().collect())
}

fn raw() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn format() -> impl Strategy<Value = Format> {
    prop_oneof![Just(Format::Text), Just(Format::Binary)]
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![text().prop_map(Target::Statement), text().prop_map(Target::Portal)]
}

fn bind() -> impl Strategy<Value = Bind> {
    (text(), text(), vec(option::of(raw()), 0..6), vec(format(), 6), 0usize..3, vec(format(), 0..4)).prop_map(
        |(portal, statement, parameters, mut formats, kind, result_formats)| {
            formats.truncate([0, 1, parameters.len()][kind]);
            Bind { portal, statement, parameter_formats: formats, parameters, result_formats }
        },
    )
}

fn client_message() -> impl Strategy<Value = ClientMessage> {
    prop_oneof![
        text().prop_map(ClientMessage::Query),
        (text(), text(), vec(any::<u32>(), 0..5))
            .prop_map(|(statement, sql, parameter_types)| Parse { statement, sql, parameter_types })
            .prop_map(ClientMessage::Parse),
        bind().prop_map(ClientMessage::Bind),
        target().prop_map(ClientMessage::Describe),
        (text(), 0..=i32::MAX.unsigned_abs())
            .prop_map(|(portal, rows_max)| ClientMessage::Execute { portal, rows_max }),
        target().prop_map(ClientMessage::Close),
        Just(ClientMessage::Flush),
        Just(ClientMessage::Sync),
        raw().prop_map(ClientMessage::CopyData),
        Just(ClientMessage::CopyDone),
        text().prop_map(ClientMessage::CopyFail),
        raw().prop_map(ClientMessage::FunctionCall),
        raw().prop_map(ClientMessage::Password),
        Just(ClientMessage::Terminate),
    ]
}

fn field() -> impl Strategy<Value = Field> {
    (text(), any::<u32>(), any::<i16>(), any::<u32>(), any::<i16>(), any::<i32>(), format()).prop_map(
        |(name, table_oid, column, type_oid, type_size, type_modifier, format)| Field {
            name: Bytes::from(name),
            table_oid,
            column,
            type_oid,
            type_size,
            type_modifier,
            format,
        },
    )
}

/// The one frame that was written.
fn only_frame(mut buffer: BytesMut) -> Frame {
    let frame = frame::take_frame(&mut buffer, limits::MESSAGE_BYTES_MAX).unwrap().unwrap();
    assert!(buffer.is_empty(), "bytes behind the frame");
    frame
}

fn written(write: impl FnOnce(&mut BytesMut)) -> (u8, Bytes) {
    let mut buffer = BytesMut::new();
    write(&mut buffer);
    let frame = only_frame(buffer);
    (frame.tag, frame.body())
}

proptest! {
    #[test]
    fn client_messages_survive_encoding(message in client_message()) {
        let mut buffer = BytesMut::new();
        check::encode_client(&mut buffer, &message);
        prop_assert_eq!(client::decode(&only_frame(buffer)), Ok(message));
    }

    #[test]
    fn a_run_of_messages_is_framed_the_same_whatever_the_pieces(
        messages in vec(client_message(), 1..8),
        sizes in vec(1usize..20, 1..10),
    ) {
        let mut whole = BytesMut::new();
        messages.iter().for_each(|message| check::encode_client(&mut whole, message));
        let headers: Vec<_> = frame::scan(&whole).map(Result::unwrap).collect();
        prop_assert_eq!(headers.len(), messages.len());
        prop_assert_eq!(headers.last().unwrap().end, whole.len());
        let (mut buffer, mut decoded, mut at) = (BytesMut::new(), Vec::new(), 0);
        for size in sizes.iter().cycle() {
            let end = whole.len().min(at + size);
            buffer.extend_from_slice(&whole[at..end]);
            at = end;
            while let Some(frame) = frame::take_frame(&mut buffer, limits::MESSAGE_BYTES_MAX).unwrap() {
                let header = headers[decoded.len()];
                prop_assert_eq!((frame.tag, &frame.bytes[..]), (header.tag, &whole[header.start..header.end]));
                prop_assert_eq!(&frame.body()[..], header.body(&whole));
                decoded.push(client::decode(&frame).unwrap());
            }
            if at == whole.len() {
                break;
            }
        }
        prop_assert_eq!(decoded, messages);
    }

    #[test]
    fn rows_and_their_descriptions_survive(
        fields in vec(field(), 0..6),
        values in vec(option::of(raw()), 0..6),
        types in vec(any::<u32>(), 0..6),
    ) {
        let (tag, body) = written(|buffer| server::write_row_description(buffer, &fields));
        prop_assert_eq!((tag, server::read_row_description(&body)), (tag::ROW_DESCRIPTION, Ok(fields)));
        let slices: Vec<_> = values.iter().map(Option::as_deref).collect();
        let (tag, body) = written(|buffer| server::write_data_row(buffer, &slices));
        prop_assert_eq!((tag, server::read_data_row(&body)), (tag::DATA_ROW, Ok(values.clone())));
        let (tag, body) = written(|buffer| server::write_parameter_description(buffer, &types));
        prop_assert_eq!((tag, server::read_parameter_description(&body)), (tag::PARAMETER_DESCRIPTION, Ok(types)));
    }

    #[test]
    fn reports_survive(severity in text(), code in text(), message in text(), detail in option::of(text()), hint in option::of(text())) {
        let (tag, body) = written(|buffer| {
            server::write_error(buffer, &severity, &code, &message, detail.as_deref(), hint.as_deref());
        });
        let fields = server::read_error(&body).unwrap();
        prop_assert_eq!(tag, tag::ERROR_RESPONSE);
        prop_assert_eq!((&fields.severity, &fields.severity_local, &fields.code), (&severity, &severity, &code));
        prop_assert_eq!((fields.message, fields.detail, fields.hint), (message.clone(), detail.unwrap_or_default(), hint.unwrap_or_default()));
        let (tag, body) = written(|buffer| server::write_notice(buffer, &severity, &code, &message));
        let fields = server::read_error(&body).unwrap();
        prop_assert_eq!((tag, fields.severity, fields.code, fields.message), (tag::NOTICE_RESPONSE, severity, code, message));
    }

    #[test]
    fn small_server_messages_survive(
        name in text(), value in text(), pid in any::<u32>(), secret in vec(any::<u8>(), 4..=256),
        status in prop_oneof![Just(b'I'), Just(b'T'), Just(b'E')], format in format(), columns in 0usize..50,
        data in raw(), rows in any::<u64>(),
    ) {
        let (tag, body) = written(|buffer| server::write_parameter_status(buffer, &name, &value));
        prop_assert_eq!((tag, server::read_parameter_status(&body)), (tag::PARAMETER_STATUS, Ok((&name[..], &value[..]))));
        let (tag, body) = written(|buffer| server::write_backend_key_data(buffer, pid, &secret));
        prop_assert_eq!((tag, server::read_backend_key(&body)), (tag::BACKEND_KEY_DATA, Ok((pid, Bytes::from(secret)))));
        let (tag, body) = written(|buffer| server::write_ready_for_query(buffer, status));
        prop_assert_eq!((tag, server::read_ready_for_query(&body)), (tag::READY_FOR_QUERY, Ok(status)));
        for kind in [tag::COPY_IN_RESPONSE, tag::COPY_OUT_RESPONSE] {
            let (tag, body) = written(|buffer| server::write_copy_response(buffer, kind, format, columns));
            prop_assert_eq!((tag, server::read_copy_response(&body)), (kind, Ok((format, columns))));
        }
        let (tag, body) = written(|buffer| server::write_notification(buffer, pid, &name, &value));
        let notification = server::read_notification(&body).unwrap();
        prop_assert_eq!((tag, notification.pid), (tag::NOTIFICATION_RESPONSE, pid));
        prop_assert_eq!((&notification.channel, &notification.payload), (&name, &value));
        let (tag, body) = written(|buffer| server::write_copy_data(buffer, &data));
        prop_assert_eq!((tag, body), (tag::COPY_DATA, data));
        for command in [format!("UPDATE {rows}"), format!("INSERT 0 {rows}")] {
            let (tag, body) = written(|buffer| server::write_command_complete(buffer, &command));
            prop_assert_eq!((tag, server::read_command_tag(&body)), (tag::COMMAND_COMPLETE, Ok(&command[..])));
            prop_assert_eq!(server::read_row_count(&command), Some(rows));
        }
        prop_assert_eq!(written(server::write_authentication_ok), (tag::AUTHENTICATION, Bytes::from_static(&[0; 4])));
    }

    #[test]
    fn start_up_packets_survive_whatever_the_pieces(
        parameters in vec((text().prop_filter("a name", |name| !name.is_empty()), text()), 0..5),
        pid in any::<u32>(), secret in vec(any::<u8>(), 4..=256),
    ) {
        let pairs: Vec<_> = parameters.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        let mut whole = BytesMut::new();
        startup::encode_tls_request(&mut whole);
        startup::encode_gss_request(&mut whole);
        startup::encode_startup(&mut whole, &pairs);
        startup::encode_cancel(&mut whole, pid, &secret);
        let (mut buffer, mut packets) = (BytesMut::new(), Vec::new());
        for byte in whole {
            buffer.extend_from_slice(&[byte]);
            packets.extend(startup::take_startup(&mut buffer).unwrap());
        }
        prop_assert_eq!(packets, [
            StartupPacket::Tls,
            StartupPacket::Gss,
            StartupPacket::Startup { minor: 0, parameters },
            StartupPacket::Cancel { pid, secret: Bytes::from(secret) },
        ]);
    }
}

#[test]
fn messages_without_body_are_five_bytes() {
    for kind in [
        tag::PARSE_COMPLETE,
        tag::BIND_COMPLETE,
        tag::CLOSE_COMPLETE,
        tag::NO_DATA,
        tag::EMPTY_QUERY_RESPONSE,
        tag::COPY_DONE,
        tag::PORTAL_SUSPENDED,
    ] {
        assert_eq!(written(|buffer| server::write_empty(buffer, kind)), (kind, Bytes::new()));
    }
}

#[test]
fn version_negotiation_names_the_whole_version_and_the_options() {
    let (tag, body) = written(|buffer| server::write_negotiate_protocol_version(buffer, 0, &["_pq_.x"]));
    assert_eq!((tag, &body[..]), (tag::NEGOTIATE_PROTOCOL_VERSION, &b"\0\x03\0\0\0\0\0\x01_pq_.x\0"[..]));
}
