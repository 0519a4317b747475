use super::*;

fn text(type_oid: u32, text: &str) -> Value {
    Value::decode(type_oid, Format::Text, text.as_bytes()).unwrap()
}

fn printed(value: &Value, type_oid: u32) -> String {
    let mut cell = Vec::new();
    value.encode(type_oid, Format::Text, &mut cell).unwrap();
    String::from_utf8(cell).unwrap()
}

fn same_key(type_oid: u32, a: &str, b: &str) -> bool {
    equality_key(type_oid, Format::Text, a.as_bytes()).unwrap()
        == equality_key(type_oid, Format::Text, b.as_bytes()).unwrap()
}

#[test]
fn floats_print_as_postgresql_prints_them() {
    for (value, output) in [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (0.1, "0.1"),
        (100.0, "100"),
        (1234.5, "1234.5"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (123_456_789_012_345.0, "123456789012345"),
        (1e15, "1e+15"),
        (9_007_199_254_740_993.0, "9.007199254740992e+15"),
        (1e23, "9.999999999999999e+22"),
        (1e100, "1e+100"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e+308"),
        (f64::NEG_INFINITY, "-Infinity"),
        (f64::NAN, "NaN"),
    ] {
        assert_eq!(float::print_float8(value), output);
    }
    for (value, output) in
        [(1e6f32, "1e+06"), (123_456.0, "123456"), (0.1, "0.1"), (1e-45, "1e-45"), (3.402_823_5e38, "3.4028235e+38")]
    {
        assert_eq!(float::print_float4(value), output);
    }
}

#[test]
fn printed_floats_read_back_as_themselves() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..20_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let value = f64::from_bits(state);
        if value.is_finite() {
            assert_eq!(float::read_float8(&float::print_float8(value)).unwrap().to_bits(), value.to_bits());
        }
        let value = f32::from_bits((state >> 32) as u32);
        if value.is_finite() {
            assert_eq!(float::read_float4(&float::print_float4(value)).unwrap().to_bits(), value.to_bits());
        }
    }
}

#[test]
fn floats_out_of_range_are_not_read() {
    for text in ["1e400", "1e-400", "", "abc", "inf", "0x10", "1_0"] {
        assert!(float::read_float8(text).is_none(), "{text}");
    }
    assert_eq!(float::read_float8("0e-400"), Some(0.0));
}

#[test]
fn nan_is_equal_to_itself_and_above_infinity() {
    let (nan, infinity) = (text(type_oid::FLOAT8, "NaN"), text(type_oid::FLOAT8, "Infinity"));
    assert_eq!(nan.compare(&nan), Ordering::Equal);
    assert_eq!(nan.compare(&infinity), Ordering::Greater);
    assert!(same_key(type_oid::FLOAT8, "-0", "0"));
    assert!(same_key(type_oid::FLOAT8, "NaN", "NaN"));
    assert!(!same_key(type_oid::FLOAT8, "NaN", "Infinity"));
}

#[test]
fn padding_of_character_n_does_not_count() {
    assert_eq!(text(type_oid::BPCHAR, "ab  ").compare(&text(type_oid::BPCHAR, "ab")), Ordering::Equal);
    assert!(same_key(type_oid::BPCHAR, "ab  ", "ab"));
    assert!(!same_key(type_oid::TEXT, "ab  ", "ab"));
}

#[test]
fn numerics_of_other_scales_are_one_value() {
    assert!(same_key(type_oid::NUMERIC, "1.0", "1.00"));
    assert!(same_key(type_oid::NUMERIC, "100", "100.000"));
    assert!(same_key(type_oid::NUMERIC, "-0", "0.0"));
    for (a, b) in [("1", "10000"), ("1", "-1"), ("0", "NaN"), ("Infinity", "NaN"), ("1", "0.0001")] {
        assert!(!same_key(type_oid::NUMERIC, a, b), "{a} {b}");
    }
}

#[test]
fn both_forms_of_bytea_are_read() {
    for form in ["\\x610a5c00", "a\\012\\\\\\000"] {
        let Value::Bytea(bytes) = text(type_oid::BYTEA, form) else { panic!("{form}") };
        assert_eq!(&bytes[..], b"a\n\\\0");
    }
    for form in ["\\x6", "\\xzz", "\\9", "\\400", "\\"] {
        assert!(Value::decode(type_oid::BYTEA, Format::Text, form.as_bytes()).is_err(), "{form}");
    }
}

#[test]
fn intervals_compare_by_their_span() {
    let binary = |us: i64, days: i32, months: i32| {
        let bytes = [&us.to_be_bytes()[..], &days.to_be_bytes(), &months.to_be_bytes()].concat();
        Value::decode(type_oid::INTERVAL, Format::Binary, &bytes).unwrap()
    };
    assert_eq!(binary(86_400_000_000, 29, 0).compare(&binary(0, 0, 1)), Ordering::Equal);
    assert_eq!(binary(0, 31, 0).compare(&binary(0, 0, 1)), Ordering::Greater);
    for (form, us, days, months) in [
        ("1 year 2 mons 3 days 04:05:06.789", 14_706_789_000, 3, 14),
        ("-1 years -2 mons +3 days -04:05:06", -14_706_000_000, 3, -14),
        ("00:00:00", 0, 0, 0),
        ("10 days", 0, 10, 0),
        ("100:00:00.000001", 360_000_000_001, 0, 0),
    ] {
        assert_eq!(text(type_oid::INTERVAL, form).compare(&binary(us, days, months)), Ordering::Equal, "{form}");
    }
    for form in ["", "1-2", "1 2:03:04", "@ 1 day", "P1D", "1 day ago", "01:00:00 1 day", "0"] {
        assert!(Value::decode(type_oid::INTERVAL, Format::Text, form.as_bytes()).is_err(), "{form}");
    }
}

#[test]
fn times_end_at_24_hours() {
    let Value::Time(us) = text(type_oid::TIME, "24:00:00") else { panic!() };
    assert_eq!(us, TIME_US_MAX);
    for form in ["24:00:00.000001", "1:00:00", "10:60:00", "10:00", "10:00:00+01"] {
        assert!(Value::decode(type_oid::TIME, Format::Text, form.as_bytes()).is_err(), "{form}");
    }
}

#[test]
fn dates_that_are_not_iso_are_not_read() {
    for (type_oid, form) in [
        (type_oid::DATE, "02/03/2024"),
        (type_oid::DATE, "03.02.2024"),
        (type_oid::TIMESTAMP, "Sat Mar 02 10:00:00 2024"),
    ] {
        assert_eq!(
            Value::decode(type_oid, Format::Text, form.as_bytes()).unwrap_err(),
            ValueError::Unreadable { type_oid }
        );
    }
}

#[test]
fn what_is_read_is_written_back() {
    for (type_oid, form) in [
        (type_oid::BOOL, "t"),
        (type_oid::INT2, "-32768"),
        (type_oid::INT4, "2147483647"),
        (type_oid::INT8, "-9223372036854775808"),
        (type_oid::OID, "4294967295"),
        (type_oid::NUMERIC, "-0.0100"),
        (type_oid::TEXT, "è"),
        (type_oid::BPCHAR, "a  "),
        (type_oid::UUID, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        (type_oid::DATE, "0044-03-15 BC"),
        (type_oid::TIMESTAMP, "2024-02-29 23:59:59.5"),
        (114, "{\"a\": 1}"),
    ] {
        let value = text(type_oid, form);
        assert_eq!(printed(&value, type_oid), form);
        let mut binary = Vec::new();
        value.encode(type_oid, Format::Binary, &mut binary).unwrap();
        let again = Value::decode(type_oid, Format::Binary, &binary).unwrap();
        assert_eq!(again.compare(&value), Ordering::Equal, "{form}");
    }
}

#[test]
fn a_number_too_large_for_its_type_is_not_written() {
    let mut cell = Vec::new();
    assert!(Value::Int(32_768).encode(type_oid::INT2, Format::Binary, &mut cell).is_err());
    assert!(Value::Int(32_768).encode(type_oid::INT2, Format::Text, &mut cell).is_err());
    assert!(cell.is_empty());
}

#[test]
fn numbers_compare_across_types_as_postgresql_casts_them() {
    let numeric = text(type_oid::NUMERIC, "9007199254740993");
    assert_eq!(Value::Int(9_007_199_254_740_993).compare(&numeric), Ordering::Equal);
    assert_eq!(Value::Float8(9_007_199_254_740_992.0).compare(&numeric), Ordering::Equal);
    assert_eq!(Value::Float4(0.1).compare(&Value::Float8(0.1)), Ordering::Greater);
}

#[test]
fn opaque_types_have_neither_order_nor_equality() {
    for type_oid in [114, 3802, 600, 16_500, type_oid::MONEY, type_oid::UNKNOWN] {
        assert_eq!(comparability(type_oid), Comparability::Unknown);
        assert!(!has_equality(type_oid, Format::Text));
        assert!(equality_key(type_oid, Format::Text, b"1").is_none());
    }
}

#[test]
fn arrays_are_equal_by_text_only() {
    assert!(same_key(type_oid::INT4_ARRAY, "{1,2}", "{1,2}"));
    assert!(!same_key(type_oid::INT4_ARRAY, "{1,2}", "[0:1]={1,2}"));
    assert!(!has_equality(type_oid::INT4_ARRAY, Format::Binary));
}
