//! `Numeric` against the server's own arithmetic.

use std::cmp::Ordering;

use ostrakon::base::numeric::Numeric;

use crate::support::{Random, Server};

const PAIRS: usize = 5_000;

/// Decimal text of all shapes: short and long, small and large, with exponents, special values.
fn random_numeric(random: &mut Random) -> String {
    if random.below(25) == 0 {
        return (*random.pick(&["NaN", "Infinity", "-Infinity", "0", "0.000", "-0", "1e300", "1e-300", "9999.9999"]))
            .to_owned();
    }
    let mut digits = |most: usize| -> String {
        (0..random.below(most + 1)).map(|_| *random.pick(&['0', '0', '1', '4', '5', '9', '9'])).collect()
    };
    let (integer, fraction) = if digits(1).is_empty() { (digits(30), digits(30)) } else { (digits(7), digits(5)) };
    let sign = *random.pick(&["", "-", "+"]);
    let exponent = match random.below(6) {
        0 => format!("e{}", random.below(80) as i64 - 40),
        _ => String::new(),
    };
    let integer = if integer.is_empty() && fraction.is_empty() { "7".to_owned() } else { integer };
    let point = if fraction.is_empty() { *random.pick(&["", "."]) } else { "." };
    format!("{sign}{integer}{point}{fraction}{exponent}")
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn arithmetic_is_the_servers() {
    let server = Server::start(15_830);
    let mut random = Random::seeded();
    let pairs: Vec<(String, String)> =
        (0..PAIRS).map(|_| (random_numeric(&mut random), random_numeric(&mut random))).collect();
    let list: Vec<String> = pairs.iter().enumerate().map(|(at, (a, b))| format!("({at},'{a}','{b}')")).collect();
    let rows = server.texts(&format!(
        "SELECT a, b, encode(numeric_send(a), 'hex'), a + b,
                CASE WHEN b <> 0 OR a = 'NaN' THEN a / b END, (CASE WHEN a = b THEN 0 WHEN a > b THEN 1 ELSE -1 END),
                CASE WHEN abs(a) < 9e18 THEN a::bigint END,
                (SELECT avg(x) FROM unnest(ARRAY[a, b, a, 1.5]) x)
         FROM (SELECT n, a::numeric, b::numeric FROM (VALUES {}) v(n, a, b)) v ORDER BY n",
        list.join(",")
    ));
    assert_eq!(rows.len(), PAIRS);
    let mut divided = 0;
    for ((a_input, b_input), row) in pairs.iter().zip(&rows) {
        let case = format!("{a_input} {b_input}");
        let (a, b) = (Numeric::from_text(a_input).expect(&case), Numeric::from_text(b_input).expect(&case));
        assert_eq!([a.to_text(), b.to_text()], row[..2], "text of {case}");
        assert_eq!(a.to_binary(), from_hex(&row[2]), "binary of {case}");
        let from_binary = Numeric::from_binary(&from_hex(&row[2])).expect(&case);
        assert_eq!(from_binary.to_text(), row[0], "read from binary: {case}");
        assert_eq!(a.add(&b).to_text(), row[3], "sum of {case}");
        match a.div(&b) {
            Some(quotient) => {
                assert_eq!(quotient.to_text(), row[4], "quotient of {case}");
                divided += 1;
            }
            None => assert_eq!(row[4], "", "quotient of {case}"),
        }
        let sign = match a.cmp(&b) {
            Ordering::Less => "-1",
            Ordering::Equal => "0",
            Ordering::Greater => "1",
        };
        assert_eq!(sign, row[5], "order of {case}");
        if !row[6].is_empty() {
            assert_eq!(a.to_i64_rounded().expect(&case).to_string(), row[6], "rounded {case}");
        }
        let sum = a.add(&b).add(&a).add(&Numeric::from_text("1.5").unwrap());
        assert_eq!(sum.div(&Numeric::from_i64(4)).unwrap().to_text(), row[7], "average of {case}");
    }
    assert!(divided > PAIRS / 2);
}
