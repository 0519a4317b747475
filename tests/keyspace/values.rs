//! Random and edge values of every key type, as text that PostgreSQL accepts.

use ostrakon::topology::KeyType;

/// A small seeded generator (splitmix64): the same values on every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    /// Any magnitude is as likely as any other.
    fn bits(&mut self) -> u64 {
        let shift = self.below(64);
        self.next() >> shift
    }
}

pub fn edges(key_type: KeyType) -> Vec<String> {
    let texts: &[&str] = match key_type {
        KeyType::Int2 => &["0", "-1", "32767", "-32768", " 42 ", "+7", "007", "-0", "\t5\n"],
        KeyType::Int4 => &["0", "-1", "2147483647", "-2147483648", " 42\u{b}", "+7", "0000000000000000000000001"],
        KeyType::Int8 => &["0", "-1", "9223372036854775807", "-9223372036854775808", "\u{c}42 ", "+7", "4294967296"],
        KeyType::Text => &["", " ", "a", "abc   ", "ä", "日本語", "12345678901", "123456789012", "1234567890123"],
        KeyType::Varchar => &["", "a", "  a", "ä", "日本語", "12345678901", "123456789012", "1234567890123"],
        KeyType::Bpchar => &["", " ", "a", "a  ", "  a ", "日本語   ", "123456789012", "a\t"],
        KeyType::Uuid => &[
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
        ],
        KeyType::Bytea => &["", "\\x", "\\x00", "\\xDEADbeef", "\\x 01 02\n03", "abc", "\\\\", "\\000\\377a\\\\", "ä"],
        KeyType::Date => &[
            "2000-01-01",
            "1999-12-31",
            "2024-02-29",
            "1900-02-28",
            "0001-01-01",
            "0001-01-01 BC",
            "4714-11-24 BC",
            "5874897-12-31",
            "10000-01-01",
            "infinity",
            "-infinity",
            " Infinity ",
            "epoch",
            " 2024-05-06 ",
            "0044-03-15 bc",
            "2024-05-06 AD",
        ],
        KeyType::Timestamp => &[
            "2000-01-01 00:00:00",
            "1999-12-31 23:59:59.999999",
            "2024-02-29T12:34:56.5",
            "2024-02-29 12:34",
            "2024-02-29",
            "0001-01-01 00:00:00.000001 BC",
            "4714-11-24 00:00:00 BC",
            "294276-12-31 23:59:59.999999",
            "infinity",
            "-infinity",
            "epoch",
            "2024-02-29 12:34:56+02",
            "2024-02-29 12:34:56Z",
        ],
        KeyType::TimestampTz => &[
            "2000-01-01 00:00:00+00",
            "1999-12-31 23:59:59.999999Z",
            "2024-02-29T12:34:56.5+05:30",
            "2024-02-29 12:34-0330",
            "2024-02-29 12:34:56.25 UTC",
            "2024-02-29 12:34:56utc",
            "0001-01-01 00:00:00.000001+00 BC",
            "4714-11-24 00:00:00+00 BC",
            "294276-12-31 23:59:59.999999+00",
            "2024-01-01 00:00:00+15:59:59",
            "infinity",
            "-infinity",
            "epoch",
        ],
        KeyType::Numeric => &[
            "0",
            "0.00",
            "-0",
            "42",
            "42.00",
            "4200",
            "10000",
            "0.0001",
            "0.00001",
            "-1.5",
            "1e10",
            "1e-10",
            "123456789.987654321",
            "99999999999999999999999999",
            "NaN",
        ],
    };
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub fn random(key_type: KeyType, random: &mut Random) -> String {
    match key_type {
        KeyType::Int2 => (random.bits() as i16).to_string(),
        KeyType::Int4 => (random.bits() as i32 * if random.below(2) == 0 { 1 } else { -1 }).to_string(),
        KeyType::Int8 => (random.bits() as i64).wrapping_mul(if random.below(2) == 0 { 1 } else { -1 }).to_string(),
        KeyType::Text => words(random),
        KeyType::Varchar => words(random).trim_end_matches(' ').to_owned(),
        KeyType::Bpchar => format!("{}{}", words(random), " ".repeat(random.below(4))),
        KeyType::Uuid => {
            let digits = format!("{:016x}{:016x}", random.next(), random.next());
            let (a, b, c, d, e) = (&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]);
            format!("{a}-{b}-{c}-{d}-{e}")
        }
        KeyType::Bytea => {
            let length = random.below(40);
            let hex: String = (0..length).map(|_| format!("{:02x}", random.next() as u8)).collect();
            format!("\\x{hex}")
        }
        KeyType::Date => date(random, 9_999),
        KeyType::Timestamp => {
            let (date, era) = date_and_era(random);
            format!("{date}{}{}{era}", random.pick(&[" ", "T"]), time(random))
        }
        KeyType::TimestampTz => {
            let (date, era) = date_and_era(random);
            let zone = match random.below(5) {
                0 => "Z".to_owned(),
                1 => " UTC".to_owned(),
                2 => format!("{}{:02}", random.pick(&["+", "-"]), random.below(16)),
                3 => format!("{}{:02}:{:02}", random.pick(&["+", "-"]), random.below(16), random.below(60)),
                _ => format!("{}{:02}{:02}", random.pick(&["+", "-"]), random.below(16), random.below(60)),
            };
            format!("{date} {}{zone}{era}", time(random))
        }
        KeyType::Numeric => {
            let mut text = String::from(random.pick(&["", "-"]));
            text.push_str(&random.bits().to_string());
            if random.below(2) == 0 {
                text.push_str(&random.pick(&["000", "0000", "00000000"]).repeat(random.below(3)));
            }
            if random.below(3) != 0 {
                text.push('.');
                text.push_str(&"0".repeat(random.below(10)));
                text.push_str(&random.bits().to_string());
                text.push_str(&"0".repeat(random.below(6)));
            }
            text
        }
    }
}

fn date(random: &mut Random, year_max: usize) -> String {
    let era = if random.below(10) == 0 { " BC" } else { "" };
    let year_max = if era.is_empty() { year_max } else { 4_000 };
    format!("{:04}-{:02}-{:02}{era}", 1 + random.below(year_max), 1 + random.below(12), 1 + random.below(28))
}

fn date_and_era(random: &mut Random) -> (String, &'static str) {
    let date = date(random, 9_999);
    match date.strip_suffix(" BC") {
        Some(date) => (date.to_owned(), " BC"),
        None => (date, ""),
    }
}

fn time(random: &mut Random) -> String {
    let mut text = format!("{:02}:{:02}:{:02}", random.below(24), random.below(60), random.below(60));
    let digits = random.below(7);
    if digits > 0 {
        let fraction = format!("{:06}", random.below(1_000_000));
        text.push('.');
        text.push_str(&fraction[..digits]);
    }
    text
}

fn words(random: &mut Random) -> String {
    let length = random.below(30);
    (0..length).map(|_| random.pick(&["a", "B", "7", " ", "ä", "日", "-", "'", "\\", "🙂", "z", "0"])).collect()
}

/// A text near a sound one: a character more, less or other.
pub fn mangle(text: &str, random: &mut Random) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..=random.below(2) {
        let at = random.below(characters.len() + 1);
        let other = random.pick(&[
            " ", "0", "1", "9", "-", "+", ":", ".", "T", "Z", "a", "f", "x", "\\", "{", "}", "\t", "e", "é", "B", "C",
            "_",
        ]);
        let other = other.chars().next().unwrap();
        match random.below(3) {
            0 => characters.insert(at, other),
            1 if at < characters.len() => {
                characters.remove(at);
            }
            _ if at < characters.len() => characters[at] = other,
            _ => {}
        }
    }
    characters.into_iter().collect()
}
