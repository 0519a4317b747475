//! Calendar arithmetic and ISO text of dates and timestamps, as PostgreSQL counts them.
//!
//! Readers accept only text that means the same under every `DateStyle` and `TimeZone`; `None` says
//! "not sure", not "wrong".
//!
//! # Units
//! Dates are days, timestamps microseconds, both since 2000-01-01 (UTC).
//!
//! # Source
//! `date2j`/`j2date` and `DecodeDateTime` in `src/backend/utils/adt/datetime.c`, limits in
//! `src/include/datatype/timestamp.h`.

use std::fmt::Write;

/// The date `infinity`.
pub const DATE_INFINITY: i32 = i32::MAX;
/// The date `-infinity`.
pub const DATE_MINUS_INFINITY: i32 = i32::MIN;
/// The timestamp `infinity`.
pub const TIMESTAMP_INFINITY: i64 = i64::MAX;
/// The timestamp `-infinity`.
pub const TIMESTAMP_MINUS_INFINITY: i64 = i64::MIN;
/// Microseconds of a day.
pub const DAY_US: i64 = 86_400_000_000;

/// Days from 2000-01-01 back to 1970-01-01.
const UNIX_EPOCH_DAYS: i32 = -10_957;
/// Day number of 2000-01-01 when 0000-03-01 is day 0.
const MILLENNIUM_FROM_MARCH_0: i64 = 730_425;
/// 4714-11-24 BC, the first Julian day.
const DATE_MIN: i32 = -2_451_545;
/// 5874897-12-31.
const DATE_MAX: i32 = 2_145_031_948;
/// 4714-11-24 00:00:00 BC.
const TIMESTAMP_MIN: i64 = -211_813_488_000_000_000;
/// 294277-01-01 00:00:00, exclusive.
const TIMESTAMP_END: i64 = 9_223_371_331_200_000_000;

/// Whether a number of days is a date that PostgreSQL holds (the infinities included).
pub fn is_date(days: i32) -> bool {
    (DATE_MIN..=DATE_MAX).contains(&days) || days == DATE_INFINITY || days == DATE_MINUS_INFINITY
}

/// Whether a number of microseconds is a timestamp that PostgreSQL holds (the infinities included).
pub fn is_timestamp(us: i64) -> bool {
    (TIMESTAMP_MIN..TIMESTAMP_END).contains(&us) || us == TIMESTAMP_INFINITY || us == TIMESTAMP_MINUS_INFINITY
}

/// Days since 2000-01-01 of a civil date in the proleptic Gregorian calendar; `None` when there is
/// no such day.
///
/// # Units
/// Years are astronomical: 0 is 1 BC, -1 is 2 BC.
pub fn days_from_civil(year: i32, month: u32, day: u32) -> Option<i32> {
    if day == 0 || day > days_in_month(year, month)? {
        return None;
    }
    // Years begin in March, so that the leap day comes last.
    let shifted_year = i64::from(year) - i64::from(month <= 2);
    let shifted_month = i64::from((month + 9) % 12);
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    i32::try_from(era * 146_097 + day_of_era - MILLENNIUM_FROM_MARCH_0).ok()
}

/// Year, month and day of a number of days since 2000-01-01.
///
/// # Units
/// Years are astronomical: 0 is 1 BC.
pub fn civil_from_days(days: i32) -> (i32, u32, u32) {
    let shifted = i64::from(days) + MILLENNIUM_FROM_MARCH_0;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as i32, month as u32, day as u32)
}

/// Reads an ISO date: `2024-02-29`, `0044-03-15 BC`, `infinity`, `-infinity`, `epoch`.
pub fn parse_date(text: &str) -> Option<i32> {
    let text = trim(text);
    match special(text) {
        Some(Special::Infinity) => return Some(DATE_INFINITY),
        Some(Special::MinusInfinity) => return Some(DATE_MINUS_INFINITY),
        Some(Special::Epoch) => return Some(UNIX_EPOCH_DAYS),
        None => {}
    }
    let (text, before_christ) = split_era(text);
    let (date, rest) = read_civil(text)?;
    let days = date.days(before_christ)?;
    (rest.is_empty() && is_date(days)).then_some(days)
}

/// Reads an ISO timestamp without time zone: `2024-02-29 23:59:59.999999`, also with `T`, without a
/// time, with `BC`; a zone offset is checked and ignored, as PostgreSQL does for this type.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    let parsed = parse_any_timestamp(text)?;
    Some(parsed.us)
}

/// Reads an ISO timestamp with an offset, `Z` or `UTC`; without one the value depends on the
/// session's `TimeZone`, so the answer is `None`.
pub fn parse_timestamp_tz(text: &str) -> Option<i64> {
    let parsed = parse_any_timestamp(text)?;
    if !is_finite(parsed.us) || parsed.absolute {
        return Some(parsed.us);
    }
    let us = parsed.us.checked_sub(i64::from(parsed.offset_s?) * 1_000_000)?;
    (is_timestamp(us) && is_finite(us)).then_some(us)
}

/// Prints a date as PostgreSQL does under `DateStyle` ISO.
pub fn print_date(days: i32) -> String {
    match days {
        DATE_INFINITY => "infinity".to_owned(),
        DATE_MINUS_INFINITY => "-infinity".to_owned(),
        _ => {
            let mut text = String::new();
            let before_christ = push_civil(&mut text, days);
            if before_christ {
                text.push_str(" BC");
            }
            text
        }
    }
}

/// Prints a timestamp as PostgreSQL does under `DateStyle` ISO.
pub fn print_timestamp(us: i64) -> String {
    print_instant(us, "")
}

/// Prints a timestamp with time zone as PostgreSQL does under `DateStyle` ISO and `TimeZone` UTC.
pub fn print_timestamp_tz(us: i64) -> String {
    print_instant(us, "+00")
}

fn print_instant(us: i64, zone: &str) -> String {
    match us {
        TIMESTAMP_INFINITY => return "infinity".to_owned(),
        TIMESTAMP_MINUS_INFINITY => return "-infinity".to_owned(),
        _ => {}
    }
    let days = us.div_euclid(DAY_US);
    let time_us = us.rem_euclid(DAY_US);
    let mut text = String::new();
    let before_christ = push_civil(&mut text, days as i32);
    let seconds = time_us / 1_000_000;
    let fraction = time_us % 1_000_000;
    // Writing to a String cannot fail.
    let _ = write!(text, " {:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if fraction != 0 {
        let digits = format!("{fraction:06}");
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
    text.push_str(zone);
    if before_christ {
        text.push_str(" BC");
    }
    text
}

/// Appends `YYYY-MM-DD`; true when the year is before Christ.
fn push_civil(text: &mut String, days: i32) -> bool {
    let (year, month, day) = civil_from_days(days);
    let before_christ = year <= 0;
    let shown = if before_christ { 1 - i64::from(year) } else { i64::from(year) };
    // Writing to a String cannot fail.
    let _ = write!(text, "{shown:04}-{month:02}-{day:02}");
    before_christ
}

fn is_finite(us: i64) -> bool {
    us != TIMESTAMP_INFINITY && us != TIMESTAMP_MINUS_INFINITY
}

fn days_in_month(year: i32, month: u32) -> Option<u32> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => Some(31),
        4 | 6 | 9 | 11 => Some(30),
        2 => Some(if leap { 29 } else { 28 }),
        _ => None,
    }
}

enum Special {
    Infinity,
    MinusInfinity,
    Epoch,
}

fn special(text: &str) -> Option<Special> {
    if text.eq_ignore_ascii_case("infinity") {
        Some(Special::Infinity)
    } else if text.eq_ignore_ascii_case("-infinity") {
        Some(Special::MinusInfinity)
    } else if text.eq_ignore_ascii_case("epoch") {
        Some(Special::Epoch)
    } else {
        None
    }
}

/// White space as C's `isspace` has it.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c'])
}

/// Splits a trailing ` BC` or ` AD` off.
fn split_era(text: &str) -> (&str, bool) {
    let Some((rest, era)) = text.rsplit_once(' ') else { return (text, false) };
    if era.eq_ignore_ascii_case("bc") {
        (trim(rest), true)
    } else if era.eq_ignore_ascii_case("ad") {
        (trim(rest), false)
    } else {
        (text, false)
    }
}

struct Civil {
    year: i32,
    month: u32,
    day: u32,
}

impl Civil {
    fn days(&self, before_christ: bool) -> Option<i32> {
        // There is no year 0 in what people write.
        if self.year == 0 {
            return None;
        }
        let year = if before_christ { 1 - self.year } else { self.year };
        days_from_civil(year, self.month, self.day)
    }
}

/// Reads `YYYY-MM-DD` from the front. The year has at least four digits: with fewer the order of the
/// fields would depend on `DateStyle`.
fn read_civil(text: &str) -> Option<(Civil, &str)> {
    let (year, rest) = read_digits(text, 4, 7)?;
    let (month, rest) = read_digits(rest.strip_prefix('-')?, 2, 2)?;
    let (day, rest) = read_digits(rest.strip_prefix('-')?, 2, 2)?;
    Some((Civil { year: i32::try_from(year).ok()?, month, day }, rest))
}

/// Reads between `least` and `most` digits; more digits than that give `None`.
fn read_digits(text: &str, least: usize, most: usize) -> Option<(u32, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    if length < least || length > most {
        return None;
    }
    let (digits, rest) = text.split_at_checked(length)?;
    Some((digits.parse().ok()?, rest))
}

struct AnyTimestamp {
    us: i64,
    offset_s: Option<i32>,
    /// The value is the same instant in every zone.
    absolute: bool,
}

fn parse_any_timestamp(text: &str) -> Option<AnyTimestamp> {
    let text = trim(text);
    let fixed = |us| Some(AnyTimestamp { us, offset_s: None, absolute: true });
    match special(text) {
        Some(Special::Infinity) => return fixed(TIMESTAMP_INFINITY),
        Some(Special::MinusInfinity) => return fixed(TIMESTAMP_MINUS_INFINITY),
        Some(Special::Epoch) => return fixed(i64::from(UNIX_EPOCH_DAYS) * DAY_US),
        None => {}
    }
    let (text, before_christ) = split_era(text);
    let (date, rest) = read_civil(text)?;
    let days = date.days(before_christ)?;
    let (time_us, offset_s) = if rest.is_empty() {
        (0, None)
    } else {
        let (time_us, rest) = read_time(rest.strip_prefix([' ', 'T', 't'])?)?;
        (time_us, read_offset(rest)?)
    };
    let us = i64::from(days).checked_mul(DAY_US)?.checked_add(time_us)?;
    (is_timestamp(us) && is_finite(us)).then_some(AnyTimestamp { us, offset_s, absolute: false })
}

/// Reads `HH:MM`, `HH:MM:SS` or `HH:MM:SS.ffffff`. More digits are rounded by PostgreSQL: not sure.
fn read_time(text: &str) -> Option<(i64, &str)> {
    let (hour, rest) = read_digits(text, 2, 2)?;
    let (minute, rest) = read_digits(rest.strip_prefix(':')?, 2, 2)?;
    let (second, fraction_us, rest) = match rest.strip_prefix(':') {
        Some(rest) => {
            let (second, rest) = read_digits(rest, 2, 2)?;
            let (fraction_us, rest) = read_fraction(rest)?;
            (second, fraction_us, rest)
        }
        // `12:34.5` would be minutes and seconds.
        None if rest.starts_with('.') => return None,
        None => (0, 0, rest),
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some((i64::from(hour * 3_600 + minute * 60 + second) * 1_000_000 + fraction_us, rest))
}

fn read_fraction(text: &str) -> Option<(i64, &str)> {
    let Some(after) = text.strip_prefix('.') else { return Some((0, text)) };
    let (fraction, rest) = read_digits(after, 1, 6)?;
    let digits = after.len() - rest.len();
    Some((i64::from(fraction) * 10_i64.pow(6_u32.saturating_sub(digits as u32)), rest))
}

/// Reads nothing, `Z`, `UTC`, `+HH`, `+HHMM`, `+HH:MM` or `+HH:MM:SS`; the outer `None` says that it
/// is none of these.
#[allow(clippy::option_option)]
fn read_offset(text: &str) -> Option<Option<i32>> {
    if text.is_empty() {
        return Some(None);
    }
    let zone = trim(text);
    if zone.eq_ignore_ascii_case("z") || zone.eq_ignore_ascii_case("utc") {
        return Some(Some(0));
    }
    let (sign, rest) = match text.strip_prefix('+') {
        Some(rest) => (1, rest),
        None => (-1, text.strip_prefix('-')?),
    };
    let (hours, minutes, seconds) = match rest.len() {
        4 if !rest.contains(':') => {
            let (both, _) = read_digits(rest, 4, 4)?;
            (both / 100, both % 100, 0)
        }
        _ => {
            let (hours, rest) = read_digits(rest, 2, 2)?;
            let (minutes, rest) = read_part(rest)?;
            let (seconds, rest) = read_part(rest)?;
            if !rest.is_empty() {
                return None;
            }
            (hours, minutes, seconds)
        }
    };
    // PostgreSQL's limit is 15:59:59.
    if hours > 15 || minutes > 59 || seconds > 59 {
        return None;
    }
    Some(Some(sign * (hours * 3_600 + minutes * 60 + seconds) as i32))
}

/// Reads `:NN`, or 0 at the end of the text.
fn read_part(text: &str) -> Option<(u32, &str)> {
    if text.is_empty() {
        return Some((0, text));
    }
    read_digits(text.strip_prefix(':')?, 2, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_ten_thousand_years_comes_back() {
        let first = days_from_civil(-5_000, 1, 1).unwrap();
        let last = days_from_civil(5_000, 12, 31).unwrap();
        let mut before = civil_from_days(first - 1);
        for days in first..=last {
            let date = civil_from_days(days);
            assert!(date > before);
            assert_eq!(days_from_civil(date.0, date.1, date.2), Some(days));
            before = date;
        }
    }

    #[test]
    fn limits_are_those_of_postgresql() {
        assert_eq!(parse_date("4714-11-24 BC"), Some(DATE_MIN));
        assert_eq!(parse_date("4714-11-23 BC"), None);
        assert_eq!(parse_date("5874897-12-31"), Some(DATE_MAX));
        assert_eq!(parse_date("5874898-01-01"), None);
        assert_eq!(parse_timestamp("4714-11-24 00:00:00 BC"), Some(TIMESTAMP_MIN));
        assert_eq!(parse_timestamp("294276-12-31 23:59:59.999999"), Some(TIMESTAMP_END - 1));
        assert_eq!(parse_timestamp("294277-01-01"), None);
    }

    #[test]
    fn what_depends_on_settings_or_clock_is_not_read() {
        for text in ["now", "today", "01/02/2024", "24-01-02", "2024-1-2", "20240102", "2024-02-30", "0000-01-01", ""] {
            assert_eq!(parse_date(text), None, "{text}");
        }
        for text in ["2024-01-02 10:00:00", "2024-01-02", "2024-01-02 10:00:00 CET", "2024-01-02 10:00:00.1234567Z"] {
            assert_eq!(parse_timestamp_tz(text), None, "{text}");
        }
        assert_eq!(parse_timestamp("2024-01-02 10:30.5"), None);
    }

    #[test]
    fn printed_text_reads_back() {
        for text in ["0001-01-01 BC", "2024-02-29", "10000-12-31", "infinity", "-infinity"] {
            assert_eq!(print_date(parse_date(text).unwrap()), text);
        }
        for text in ["0044-03-15 12:00:00.5 BC", "2024-02-29 00:00:00", "1999-12-31 23:59:59.999999", "infinity"] {
            assert_eq!(print_timestamp(parse_timestamp(text).unwrap()), text);
        }
        let instant = parse_timestamp_tz("2024-01-01 00:30:00+05:30").unwrap();
        assert_eq!(print_timestamp_tz(instant), "2023-12-31 19:00:00+00");
    }
}
