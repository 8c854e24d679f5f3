//! How many SMS a text becomes, as far as anyone outside the provider can tell.
//!
//! The provider documents three codings, the size of the first and of each following part, and a limit of seven parts
//! (provider documentation, send-sms page). It does not document where exactly each further part begins, what the
//! letters of the Turkish alphabet cost, or which characters it replaces, so an estimate has two ends: `least` by the
//! most generous reading, `most` by the strictest.

use unicode_normalization::char::decompose_canonical;

/// A text of more parts than this is refused by the provider (code 453).
pub const MAX_PARTS: u32 = 7;

/// The alphabet that a text needs, and so how much of it fits into one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coding {
    /// Only characters of the GSM 7-bit alphabet (GSM 03.38) and its extension.
    English,
    /// Those, and `ş Ş ğ Ğ ç ı İ`.
    Turkish,
    /// Anything else: an emoji, a curly quote, another script.
    Unicode,
}

/// What a text takes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The alphabet that the text needs as it stands.
    pub coding: Coding,
    /// Its length by the strictest reading, in what `coding` counts: 7-bit characters, or UTF-16 units.
    pub units: u32,
    /// How many parts the most generous reading makes of it.
    pub least: u32,
    /// How many parts the strictest reading makes of it.
    pub most: u32,
}

impl Parts {
    /// Whether even the most generous reading has too many parts, so that sending it can only be refused.
    #[must_use]
    pub const fn exceeds_limit(&self) -> bool {
        self.least > MAX_PARTS
    }
}

/// Estimates how many parts `text` becomes. It is taken as it stands: a [`Body`](super::Body) is in NFC already.
///
/// ```
/// use sms_outbox::message::{Coding, estimate};
/// let parts = estimate("Kargonuz yola çıktı.");
/// assert_eq!((parts.coding, parts.least, parts.most), (Coding::Turkish, 1, 1));
/// assert!(!estimate(&"a".repeat(1073)).exceeds_limit());
/// assert!(estimate(&"a".repeat(1074)).exceeds_limit());
/// ```
#[must_use]
pub fn estimate(text: &str) -> Parts {
    let strict = Lengths::of(text);
    let coding = strict.coding();
    let units = match coding {
        Coding::English => strict.short,
        Coding::Turkish => strict.long,
        Coding::Unicode => strict.utf16,
    };
    let most = coding.parts_strictly(text, units);

    // Nobody knows whether surrounding space is cut off and line ends are sent as one character.
    let generous = Lengths::of(&text.trim().replace("\r\n", "\n"));
    let in_seven_bits = if generous.turkish {
        Coding::Turkish
    } else {
        Coding::English
    };
    let in_unicode = Coding::Unicode.parts_generously(generous.utf16);
    let least = match generous.coding() {
        Coding::English | Coding::Turkish => in_seven_bits.parts_generously(generous.short),
        // A look-alike may be sent in its place: Word's apostrophe alone would halve what a text may say.
        Coding::Unicode if generous.replaceable => {
            in_unicode.min(in_seven_bits.parts_generously(generous.short))
        }
        Coding::Unicode => in_unicode,
    };
    Parts {
        coding,
        units,
        least: least.min(most),
        most,
    }
}

impl Coding {
    /// The documented size of the first part.
    const fn first(self) -> u32 {
        match self {
            Self::English => 155,
            Self::Turkish => 150,
            Self::Unicode => 65,
        }
    }

    /// The documented size of every part of a long text, with the five characters that the provider appends (` B186`)
    /// taken from the whole: 155, 301, 454, … in English. No part ends within a character: 31 emoji fill one of 63 units.
    fn parts_strictly(self, text: &str, units: u32) -> u32 {
        let each = match self {
            Self::English => 153,
            Self::Turkish => 148,
            Self::Unicode => 63,
        };
        if units <= self.first() {
            return 1;
        }
        let (mut parts, mut used) = (1_u32, 0);
        for width in text.chars().map(|c| self.width(c)).chain([1; 5]) {
            if used + width > each {
                parts = parts.saturating_add(1);
                used = 0;
            }
            used += width;
        }
        parts.max(2)
    }

    /// What one character takes up by the strictest reading.
    fn width(self, c: char) -> u32 {
        let is_two = match self {
            Self::English | Self::Turkish => is_gsm_extension(c) || is_turkish(c),
            Self::Unicode => c.len_utf16() == 2,
        };
        if is_two { 2 } else { 1 }
    }

    /// The roomier of two readings: a full first part and documented following ones, or the parts of the GSM standard
    /// less the appended code once.
    fn parts_generously(self, units: u32) -> u32 {
        if units <= self.first() {
            return 1;
        }
        match self {
            // 155 + (n - 1) * 153; the standard's part is 153 as well, so the other reading is never roomier.
            Self::English => (units - 2).div_ceil(153),
            // 150 + (n - 1) * 148, or n * 149 - 5: they meet at seven parts, the latter gains beyond.
            Self::Turkish => (units - 2).div_ceil(148).min((units + 5).div_ceil(149)),
            // n * 67 - 5, which is roomier than 65 + (n - 1) * 63 from the second part on.
            Self::Unicode => (units + 5).div_ceil(67),
        }
    }
}

/// The lengths of a text in every way of counting, from one walk over it. They stop at `u32::MAX`.
#[derive(Default)]
struct Lengths {
    /// 7-bit characters, with each Turkish letter as one and a look-alike for what needs replacing.
    short: u32,
    /// The same with each Turkish letter as two: the gateway may escape them one by one.
    long: u32,
    utf16: u32,
    turkish: bool,
    unicode: bool,
    /// Whether everything outside the 7-bit alphabets has a look-alike inside.
    replaceable: bool,
}

impl Lengths {
    fn of(text: &str) -> Self {
        let mut lengths = Self {
            replaceable: true,
            ..Self::default()
        };
        for c in text.chars() {
            let (short, long) = match c {
                c if is_turkish(c) => {
                    lengths.turkish = true;
                    (1, 2)
                }
                c if is_gsm_extension(c) => (2, 2),
                c if is_gsm_basic(c) => (1, 1),
                c => {
                    lengths.unicode = true;
                    lengths.replaceable &= has_look_alike(c);
                    (1, 1)
                }
            };
            lengths.short = lengths.short.saturating_add(short);
            lengths.long = lengths.long.saturating_add(long);
            lengths.utf16 = lengths.utf16.saturating_add(Coding::Unicode.width(c));
        }
        // Room for the five appended characters, so that no sum above can wrap.
        for length in [&mut lengths.short, &mut lengths.long, &mut lengths.utf16] {
            *length = (*length).min(u32::MAX - 5);
        }
        lengths
    }

    const fn coding(&self) -> Coding {
        if self.unicode {
            Coding::Unicode
        } else if self.turkish {
            Coding::Turkish
        } else {
            Coding::English
        }
    }
}

/// What the Turkish alphabet adds.
fn is_turkish(c: char) -> bool {
    matches!(c, 'ş' | 'Ş' | 'ğ' | 'Ğ' | 'ç' | 'ı' | 'İ')
}

/// GSM 03.38, default alphabet.
fn is_gsm_basic(c: char) -> bool {
    match c {
        '`' => false,
        ' '..='Z' | '_' | 'a'..='z' | '\n' | '\r' => true,
        c => "£¥§¤¡¿ÄÅÆÇÉÑÖØÜßàäåæèéìñòöøùüΔΦΓΛΩΠΨΣΘΞ".contains(c),
    }
}

/// GSM 03.38, extension table: an escape character comes first.
fn is_gsm_extension(c: char) -> bool {
    matches!(
        c,
        '^' | '{' | '}' | '\\' | '[' | ']' | '~' | '|' | '€' | '\u{c}'
    )
}

/// Whether a gateway may well send a 7-bit character in place of `c`: typographic signs, odd spaces, and Latin letters
/// with an accent (`â` in `hâlâ`). Other scripts and emoji have no such stand-in.
fn has_look_alike(c: char) -> bool {
    if c.is_whitespace() {
        return true;
    }
    if matches!(c,
        '`' | '´' | '«' | '»' | '·' | 'ẞ' | '\u{ad}'
        | '\u{2010}'..='\u{2015}' | '\u{2018}'..='\u{201f}' | '•' | '…' | '‹' | '›' | '\u{2212}'
        | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
    {
        return true;
    }
    let mut base = None;
    decompose_canonical(c, |part| {
        base.get_or_insert(part);
    });
    base.is_some_and(|base| base.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The last length that still makes `n` parts: (n, strictest reading, most generous reading).
    fn check(coding: Coding, letter: &str, thresholds: [(u32, usize, usize); 7]) {
        for (n, strict, generous) in thresholds {
            let at = |length: usize| {
                // The letter decides the coding; what follows it costs one unit on every reading.
                let text = format!(
                    "{letter}{}",
                    if coding == Coding::Unicode {
                        letter.repeat(length - 1)
                    } else {
                        "a".repeat(length - 1)
                    }
                );
                let parts = estimate(&text);
                assert_eq!(parts.coding, coding);
                parts
            };
            // The strictest reading of Turkish takes the one letter in front for two.
            let strict = if coding == Coding::Turkish {
                strict - 1
            } else {
                strict
            };
            assert_eq!(at(strict).most, n, "{coding:?}: {strict} at most {n}");
            assert_eq!(
                at(strict + 1).most,
                n + 1,
                "{coding:?}: {strict} + 1 at most {n} + 1"
            );
            assert_eq!(at(generous).least, n, "{coding:?}: {generous} at least {n}");
            assert_eq!(
                at(generous + 1).least,
                n + 1,
                "{coding:?}: {generous} + 1 at least {n} + 1"
            );
        }
    }

    #[test]
    fn english_text_begins_a_new_part_at_each_documented_threshold() {
        check(
            Coding::English,
            "a",
            [
                (1, 155, 155),
                (2, 301, 308),
                (3, 454, 461),
                (4, 607, 614),
                (5, 760, 767),
                (6, 913, 920),
                (7, 1066, 1073),
            ],
        );
    }

    #[test]
    fn turkish_text_begins_a_new_part_at_each_documented_threshold() {
        check(
            Coding::Turkish,
            "ş",
            [
                (1, 150, 150),
                (2, 291, 298),
                (3, 439, 446),
                (4, 587, 594),
                (5, 735, 742),
                (6, 883, 890),
                (7, 1031, 1038),
            ],
        );
    }

    #[test]
    fn unicode_text_begins_a_new_part_at_each_documented_threshold() {
        check(
            Coding::Unicode,
            "Я",
            [
                (1, 65, 65),
                (2, 121, 129),
                (3, 184, 196),
                (4, 247, 263),
                (5, 310, 330),
                (6, 373, 397),
                (7, 436, 464),
            ],
        );
    }

    #[test]
    fn only_what_is_too_long_on_every_reading_exceeds_the_limit() {
        for (text, exceeds, why) in [
            ("a".repeat(1073), false, "English by 155 + 6 * 153"),
            ("a".repeat(1074), true, "English"),
            (
                format!("ş{}", "a".repeat(1037)),
                false,
                "Turkish by 150 + 6 * 148",
            ),
            (format!("ş{}", "a".repeat(1038)), true, "Turkish"),
            ("ş".repeat(1038), false, "Turkish letters may cost one each"),
            ("Я".repeat(464), false, "Unicode by 7 * 67 - 5"),
            ("Я".repeat(465), true, "Unicode"),
            ("😀".repeat(232), false, "an emoji is two UTF-16 units"),
            ("😀".repeat(233), true, "an emoji is two UTF-16 units"),
            ("{".repeat(536), false, "an extension character is two"),
            ("{".repeat(537), true, "an extension character is two"),
            (
                format!("{}’da", "a".repeat(1000)),
                false,
                "the apostrophe may be replaced",
            ),
            (
                format!("hâlâ ş{}", "a".repeat(1000)),
                false,
                "accents may be dropped",
            ),
            (
                format!("{}’da", "a".repeat(1080)),
                true,
                "even with a replaced apostrophe",
            ),
            (
                format!("{} \r\n", "a".repeat(1073)),
                false,
                "space at the end may be cut off",
            ),
            (String::new(), false, "empty is somebody else's complaint"),
        ] {
            assert_eq!(estimate(&text).exceeds_limit(), exceeds, "{why}");
        }
    }

    #[test]
    fn no_part_ends_within_a_character() {
        for (text, most, why) in [
            ("😀".repeat(32), 1, "64 units"),
            ("😀".repeat(33), 2, "66 units"),
            (
                "😀".repeat(60),
                2,
                "31 emoji, then 29 and the five appended characters",
            ),
            (
                "😀".repeat(61),
                3,
                "31 and 30 leave room for three of the five",
            ),
            (
                "😀".repeat(186),
                7,
                "six times 31, and the appended characters",
            ),
            ("{".repeat(148), 2, "76, then 72 and the five"),
            ("{".repeat(151), 3, "76 and 75 are two full parts"),
            (
                format!("ş{}", "{".repeat(144)),
                2,
                "an even size is filled to its end",
            ),
        ] {
            assert_eq!(estimate(&text).most, most, "{why}");
        }
    }

    #[test]
    fn each_alphabet_is_recognised() {
        for (text, coding) in [
            (
                "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?",
                Coding::English,
            ),
            (
                "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà",
                Coding::English,
            ),
            ("^{}\\[]~|€\u{c}", Coding::English),
            ("ÇÖÜöü", Coding::English),
            ("ç", Coding::Turkish),
            ("ŞşĞğıİ", Coding::Turkish),
            ("`", Coding::Unicode),
            ("“", Coding::Unicode),
            ("—", Coding::Unicode),
            ("â", Coding::Unicode),
            ("ẞ", Coding::Unicode),
            ("\t", Coding::Unicode),
            ("s\u{327}", Coding::Unicode), // not in NFC
        ] {
            assert_eq!(estimate(text).coding, coding, "{text:?}");
        }
    }

    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[a-z {}^€\\[\r\n]{0,400}",
            "[a-zşŞğĞçıİ{€ ]{0,400}",
            "[a-zş’â😀Я ]{0,400}",
        ]
    }

    proptest! {
        #[test]
        fn the_bounds_are_in_order(text in texts()) {
            let parts = estimate(&text);
            prop_assert!(1 <= parts.least && parts.least <= parts.most);
        }

        #[test]
        fn a_longer_text_never_takes_fewer_parts(text in texts(), more in prop_oneof![any::<char>(), prop::char::range('a', 'z'), Just('ş'), Just('€'), Just('’')]) {
            let (short, long) = (estimate(&text), estimate(&format!("{text}{more}")));
            prop_assert!(short.coding <= long.coding);
            prop_assert!(short.least <= long.least, "{short:?} {long:?}");
            prop_assert!(short.most <= long.most, "{short:?} {long:?}");
        }

        #[test]
        fn english_letters_cost_no_more_than_the_same_text_with_turkish_ones(length in 0usize..1200) {
            let english = estimate(&"s".repeat(length));
            let turkish = estimate(&"ş".repeat(length));
            let unicode = estimate(&"Ш".repeat(length));
            prop_assert!(english.least <= turkish.least && english.most <= turkish.most);
            prop_assert!(turkish.least <= unicode.least);
        }
    }
}
