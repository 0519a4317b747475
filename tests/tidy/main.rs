//! Tidiness as a test: floors, file sizes, words that must not appear.

mod floors;
