//! Mobile numbers: every spelling that people type goes in, one spelling comes out.

use std::fmt;

use serde::{Serialize, Serializer};

use super::spelling::{Spelling, digit};

/// Whether numbers outside Turkey are taken (`SMS_OUTBOX_INTERNATIONAL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignNumbers {
    /// Turkish mobiles only.
    Refused,
    /// Foreign numbers too. The provider's account must be switched to sending abroad, which turns its SMS credits into
    /// a balance in TL for good (provider documentation, send-sms page).
    Allowed,
}

/// A mobile number in the one spelling that is sent: `905321234567` for Turkish mobiles, `+4917…` for foreign numbers.
///
/// It exists only if the number was understood, so nothing later looks at it again. `Debug` shows enough to recognise a
/// number and too little to call it; whoever needs all of it asks for [`as_str`](Self::as_str).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Recipient(String);

/// Why a text is no number that could be sent to. No message repeats the number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipientError {
    /// Blank, or separators only.
    #[error("there is no number in it")]
    Empty,
    /// More than 64 characters, whatever they are.
    #[error("it has more than 64 characters")]
    TooLong,
    /// Neither a digit nor something that people put around and between digits.
    #[error("{0:?} does not belong in a number")]
    Character(char),
    /// A second `+`, or one behind a digit.
    #[error("a + may only stand in front of a number")]
    PlusInside,
    /// Turkish, or without a country code, and too short or too long.
    #[error(
        "it has {digits} digits: a Turkish mobile number is 5XX XXX XX XX, with 0, 90 or +90 in front; a foreign one needs its + or 00"
    )]
    Length {
        /// How many digits were found.
        digits: usize,
    },
    /// Turkish, but no mobile: a landline or a service number.
    #[error("it is no mobile number: Turkish mobile numbers start with 5")]
    NotMobile,
    /// A `+` or `00` followed by another 0.
    #[error("no country code starts with 0")]
    CountryCode,
    /// A foreign number of an impossible length.
    #[error(
        "it has {digits} digits: a foreign number has 8 to 15, its country code counted (ITU-T E.164)"
    )]
    ForeignLength {
        /// How many digits were found.
        digits: usize,
    },
    /// `532123456.0`: a spreadsheet has taken it for an amount, and may have changed it.
    #[error("it is written as a decimal number, as spreadsheets do, and may have lost digits")]
    Decimal,
    /// `+5XX XXX XX XX`: a Turkish number whose 90 was forgotten, or one of a country whose code begins with 5.
    #[error("+5 and nine more digits may be a Turkish number without its 90")]
    CountryCodeForgotten,
    /// `+49 (0171) …`: some countries dial that 0 from abroad, and most do not.
    #[error(
        "a 0 in brackets may belong to a foreign number or not; write the number as it is dialled from abroad"
    )]
    BracketedZero,
    /// `+49 171 1234567 / 68`: a list of foreign numbers, whose lengths nobody knows.
    #[error("there may be two numbers in it")]
    Several,
    /// A well-formed number of another country, while those are switched off.
    #[error("it is not a Turkish number; SMS_OUTBOX_INTERNATIONAL=true would send it")]
    Foreign,
}

impl Recipient {
    /// Reads a number in any spelling that people type or paste.
    ///
    /// Digits of every script are read. Spaces, dashes, dots, slashes and parentheses of every kind are skipped between them,
    /// and so are the invisible marks that copying brings along; around the number also quotes, brackets, `tel:`, a list's
    /// commas and the `="…"` of spreadsheets. What could be another number as well is refused.
    ///
    /// ```
    /// use sms_outbox::message::{ForeignNumbers, Recipient, RecipientError};
    ///
    /// for spelling in ["0532 123 45 67", "532-123-45-67", "+90 (532) 123 4567", "tel:0090-532.123.45.67", "'٠٥٣٢١٢٣٤٥٦٧"] {
    ///     let number = Recipient::parse(spelling, ForeignNumbers::Refused)?;
    ///     assert_eq!(number.as_str(), "905321234567");
    /// }
    /// let german = Recipient::parse("+49 (0) 171 1234567", ForeignNumbers::Allowed)?;
    /// assert_eq!(german.as_str(), "+491711234567");
    /// assert_eq!(Recipient::parse("0212 123 45 67", ForeignNumbers::Refused), Err(RecipientError::NotMobile));
    /// # Ok::<(), RecipientError>(())
    /// ```
    ///
    /// # Errors
    /// When the text cannot be such a number; the error says why without repeating it.
    pub fn parse(text: &str, foreign: ForeignNumbers) -> Result<Self, RecipientError> {
        let spelling = Spelling::read(text)?;
        let (digits, count) = (spelling.digits.as_str(), spelling.count);
        match digits.strip_prefix("90") {
            Some(national) if spelling.international => Self::turkish(national, count),
            None if spelling.international => Self::foreign(&spelling, foreign),
            // Without + or 00, only the right number of digits tells a country code from the number itself.
            Some(national) if digits.len() >= 12 => Self::turkish(national, count),
            _ => Self::turkish(digits, count),
        }
    }

    /// `national` is what follows the country code, with or without the 0 that people dial inside the country.
    fn turkish(national: &str, count: usize) -> Result<Self, RecipientError> {
        let subscriber = national.strip_prefix('0').unwrap_or(national);
        if subscriber.len() != 10 {
            return Err(RecipientError::Length { digits: count });
        }
        if !subscriber.starts_with('5') {
            return Err(RecipientError::NotMobile);
        }
        Ok(Self(format!("90{subscriber}")))
    }

    fn foreign(spelling: &Spelling, foreign: ForeignNumbers) -> Result<Self, RecipientError> {
        let number = spelling.digits.as_str();
        if number.starts_with('0') {
            return Err(RecipientError::CountryCode);
        }
        if number.starts_with('5') && number.len() == 10 {
            return Err(RecipientError::CountryCodeForgotten);
        }
        if !(8..=15).contains(&number.len()) {
            return Err(RecipientError::ForeignLength {
                digits: number.len(),
            });
        }
        if spelling.has_bracketed_zero {
            return Err(RecipientError::BracketedZero);
        }
        if spelling.may_be_several {
            return Err(RecipientError::Several);
        }
        match foreign {
            ForeignNumbers::Allowed => Ok(Self(format!("+{number}"))),
            ForeignNumbers::Refused => Err(RecipientError::Foreign),
        }
    }

    /// The number as it is stored and sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it lies outside Turkey.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.0.starts_with('+')
    }

    /// The number as logs and screens may show it: `90532•••••67`.
    #[must_use]
    pub fn masked(&self) -> String {
        let plus = if self.is_foreign() { "+" } else { "" };
        format!("{plus}{}", masked_digits(self.0.trim_start_matches('+')))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl Serialize for Recipient {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Masks any spelling of a number, readable or not, for logs and screens.
///
/// At most the first five and the last two digits are shown, at least five are hidden, and a text with fewer than ten
/// digits is hidden whole, because what is left of a short number is soon guessed.
///
/// ```
/// use sms_outbox::message::mask;
/// assert_eq!(mask("0532 123 45 67"), "90532•••••67");
/// assert_eq!(mask("+49 171 1234567"), "+49171•••••67");
/// assert_eq!(mask("call me: 12345"), "•••••");
/// ```
#[must_use]
pub fn mask(text: &str) -> String {
    match Recipient::parse(text, ForeignNumbers::Allowed) {
        Ok(recipient) => recipient.masked(),
        Err(_) => {
            let digits: String = text.chars().filter_map(digit).collect();
            masked_digits(&digits)
        }
    }
}

/// Always five dots, so that the length of an unreadable text does not show either.
fn masked_digits(digits: &str) -> String {
    const HIDDEN: &str = "•••••";
    if digits.len() < 10 {
        return HIDDEN.to_owned();
    }
    let head = (digits.len() - 7).min(5);
    let tail = digits.len() - 2;
    format!("{}{HIDDEN}{}", &digits[..head], &digits[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_spelling_of_a_turkish_mobile_is_the_same_number() {
        for spelling in [
            "905321234567",
            "05321234567",
            "5321234567",
            "+905321234567",
            "00905321234567",
            "0532 123 45 67",
            "(0532) 123 45 67",
            "+90 532 123 45 67",
            "+90 (0) 532 123 45 67",
            "9005321234567",
            "009005321234567",
            "(+90) 532-123-45-67",
            "0532/1234567",
            "0532.123.45.67",
            "0532\u{a0}123\u{202f}45\u{2009}67",
            "0532–123‒45−67",
            "\t0532 123 4567\r\n",
            "\u{202a}+90 532 123 45 67\u{202c}",
            "\u{200e}05321234567\u{feff}",
            "٠٥٣٢١٢٣٤٥٦٧",
            "۰۵۳۲ ۱۲۳ ۴۵ ۶۷",
            "०५३२१२३४५६७",
            "＋90（532）123－45－67",
            "０５３２．１２３．４５．６７",
            "tel:+90-532-123-45-67",
            "TEL: 0532 123 45 67",
            "sms:05321234567",
            "'05321234567",
            "\"0532 123 45 67\",",
            "=\"05321234567\"",
            "“0532 123 45 67”;",
            "[0532 123 45 67]",
            "<tel:+905321234567>",
            "0\u{fe0f}\u{20e3}532 123 45 67",
            "5.321.234.567",
        ] {
            for foreign in [ForeignNumbers::Refused, ForeignNumbers::Allowed] {
                assert_eq!(
                    Recipient::parse(spelling, foreign)
                        .as_ref()
                        .map(Recipient::as_str),
                    Ok("905321234567"),
                    "{spelling:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_turkish_mobile_is_refused_with_its_reason() {
        use RecipientError::{
            Character, CountryCode, CountryCodeForgotten, Decimal, Empty, Foreign, ForeignLength,
            Length, NotMobile, PlusInside, TooLong,
        };
        for (text, error) in [
            ("", Empty),
            ("  ()-", Empty),
            ("+", Empty),
            ("0532 123 45 6", Length { digits: 10 }),
            ("532123456", Length { digits: 9 }),
            ("0532 123 45 678", Length { digits: 12 }),
            ("905321234", Length { digits: 9 }),
            ("90532123456", Length { digits: 11 }),
            ("+90532123456", Length { digits: 11 }),
            ("+9053212345678", Length { digits: 13 }),
            ("90005321234567", Length { digits: 14 }),
            ("05321234567 05331234567", Length { digits: 22 }),
            ("0532 123 45 67 / 0533 123 45 67", Length { digits: 22 }),
            ("0", Length { digits: 1 }),
            ("00", ForeignLength { digits: 0 }),
            ("02121234567", NotMobile),
            ("+90 212 123 45 67", NotMobile),
            ("0090 (0) 212 123 45 67", NotMobile),
            ("9051234567", NotMobile), // ten digits, so 90 is no country code here
            ("4921234567", NotMobile),
            ("0532+1234567", PlusInside),
            ("++905321234567", PlusInside),
            ("05321234567+", PlusInside),
            ("+0532 123 45 67", CountryCode),
            ("00 0532 123 45 67", CountryCode),
            ("05321234567x9", Character('x')),
            ("0532 l23 45 67", Character('l')),
            ("0532,1234567", Character(',')),
            ("05321234567;05331234567", Character(';')),
            ("05321234567 ext. 9", Character('e')),
            ("tel:+905321234567;ext=9", Character(';')),
            ("5.32E+09", Character('E')),
            ("532123456,0", Character(',')),
            ("532123456.0", Decimal),
            (
                "\u{665}\u{663}\u{662}\u{661}\u{662}\u{663}\u{664}\u{665}\u{666}.\u{660}",
                Decimal,
            ),
            ("53212345.00", Decimal),
            ("53212345.67", Decimal),
            ("5321234.000", Decimal),
            ("0532 123 456.7", Decimal),
            ("90532•••••67", Character('•')),
            ("+1234567", ForeignLength { digits: 7 }),
            ("+1234567890123456", ForeignLength { digits: 16 }),
            ("+491711234567", Foreign),
            ("0049 171 1234567", Foreign),
            ("+5321234567", CountryCodeForgotten), // 53 is Cuba
            ("00 542 123 45 67", CountryCodeForgotten), // 54 is Argentina
        ] {
            assert_eq!(
                Recipient::parse(text, ForeignNumbers::Refused),
                Err(error),
                "{text:?}"
            );
        }
        let endless = "5".repeat(1_000_000);
        assert_eq!(
            Recipient::parse(&endless, ForeignNumbers::Allowed),
            Err(TooLong)
        );
    }

    #[test]
    fn foreign_numbers_are_kept_with_their_plus_when_allowed() {
        for (text, stored) in [
            ("+49 171 1234567", "+491711234567"),
            ("0049-171-1234567", "+491711234567"),
            ("+1 (202) 555-0143", "+12025550143"),
            ("+49 (0) 171 1234567", "+491711234567"),
            ("(+49) (0)171 123 45 67", "+491711234567"),
            ("0049(0)171/1234567", "+491711234567"),
            ("+44 (0)7911 123456", "+447911123456"),
            ("+53 5 123 45 678", "+53512345678"),
            ("+12345678", "+12345678"),
            ("+123456789012345", "+123456789012345"),
        ] {
            let recipient = Recipient::parse(text, ForeignNumbers::Allowed).unwrap();
            assert_eq!(recipient.as_str(), stored);
            assert!(recipient.is_foreign());
        }
    }

    #[test]
    fn what_could_be_another_foreign_number_is_refused() {
        use RecipientError::{BracketedZero, CountryCodeForgotten, Several};
        for (text, error) in [
            ("+532 123 45 67", CountryCodeForgotten),
            ("+542 123 45 67", CountryCodeForgotten),
            ("+49 (0171) 1234567", BracketedZero),
            ("+39 (06) 1234567", BracketedZero),
            ("+49 171 (0) 1234567", BracketedZero),
            ("+1 202 555 0143 / 44", Several),
            ("+1 202 555 0143\n44", Several),
        ] {
            let read = Recipient::parse(text, ForeignNumbers::Allowed);
            assert_eq!(read, Err(error), "{text:?}");
        }
    }

    #[test]
    fn no_message_of_an_error_repeats_the_number() {
        for text in [
            "0212 987 65 43",
            "+49 171 9876543",
            "0532 987 65 432",
            "05329876543x",
        ] {
            let said = Recipient::parse(text, ForeignNumbers::Refused)
                .unwrap_err()
                .to_string();
            assert!(
                !said.contains("98765") && !said.contains("987 65"),
                "{said}"
            );
        }
        assert!(
            RecipientError::Foreign
                .to_string()
                .contains("SMS_OUTBOX_INTERNATIONAL=true")
        );
    }

    #[test]
    fn a_masked_number_can_be_recognised_but_not_called() {
        for (text, masked) in [
            ("905321234567", "90532•••••67"),
            ("0532 123 45 67", "90532•••••67"),
            ("+491711234567", "+49171•••••67"),
            ("+1234567890", "+123•••••90"),
            ("+12345678", "+•••••"),
            ("0212 123 45 67", "0212•••••67"),
            ("0532 123 45 67 ask for Ali 42", "05321•••••42"),
            ("٠٥٣٢ ١٢٣ ٤٥ ٦٧", "90532•••••67"),
            ("٠٥٣٢ ١٢٣ ٤٥ ٦٧ ask", "0532•••••67"),
            ("hello", "•••••"),
            ("", "•••••"),
        ] {
            assert_eq!(mask(text), masked, "{text:?}");
        }
        let recipient = Recipient::parse("05321234567", ForeignNumbers::Refused).unwrap();
        assert_eq!(format!("{recipient:?}"), "90532•••••67");
    }

    /// A subscriber number cut into groups, with anything between and around them that people type.
    fn spelling() -> impl Strategy<Value = (String, String)> {
        let separator =
            "[ \\t\u{a0}\u{2009}\u{202f}/()\u{2010}-\u{2015}\u{2212}\u{200e}\u{feff}-]{0,3}";
        let front = prop_oneof![
            Just(""),
            Just("0"),
            Just("90"),
            Just("+90"),
            Just("0090"),
            Just("+90(0)"),
            Just("90(0)"),
            Just("0090(0)"),
        ];
        let gaps = proptest::collection::vec(separator, 12);
        ("5[0-9]{9}", front, gaps).prop_map(|(subscriber, front, gaps)| {
            let mut typed = gaps[11].clone();
            typed.push_str(front);
            for (digit, gap) in subscriber.chars().zip(&gaps) {
                typed.push_str(gap);
                typed.push(digit);
            }
            typed.push_str(&gaps[10]);
            (subscriber, typed)
        })
    }

    fn is_in_stored_form(text: &str) -> bool {
        let all_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        let turkish = text.len() == 12 && text.starts_with("905") && all_digits(text);
        let foreign = text.strip_prefix('+').is_some_and(|t| {
            (8..=15).contains(&t.len())
                && !t.starts_with('0')
                && !t.starts_with("90")
                && all_digits(t)
        });
        turkish || foreign
    }

    /// Written down form by form: what may stand in front of a subscriber's ten digits.
    fn is_a_turkish_mobile(plus: bool, digits: &str) -> bool {
        let fronts = if plus {
            &["90", "900"][..]
        } else {
            &["", "0", "90", "900", "0090", "00900"]
        };
        fronts.iter().any(|front| {
            digits
                .strip_prefix(front)
                .is_some_and(|subscriber| subscriber.len() == 10 && subscriber.starts_with('5'))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn exactly_the_known_forms_are_turkish_mobiles(
            plus in any::<bool>(),
            digits in prop_oneof![
                "[0-9]{0,16}", "(0|00|90|900|0090|00900|09|9)?[45][0-9]{8,11}", "(00)?(90|49|53|9|0){1,3}5?[0-9]{6,10}",
            ],
            gap in "[ ()/-]{0,2}", at in any::<prop::sample::Index>(),
        ) {
            let at = at.index(digits.len() + 1);
            let typed = format!("{}{}{gap}{}", if plus { "+" } else { "" }, &digits[..at], &digits[at..]);
            let read = Recipient::parse(&typed, ForeignNumbers::Refused);
            prop_assert_eq!(read.is_ok(), is_a_turkish_mobile(plus, &digits), "{:?}", typed);
            if let Ok(number) = read {
                prop_assert_eq!(number.as_str(), format!("90{}", &digits[digits.len() - 10..]));
            }
        }

        #[test]
        fn one_strange_character_spoils_any_number(
            subscriber in "5[0-9]{9}", strange in any::<char>(), at in 1_usize..10,
        ) {
            // Between digits nothing is skipped but what separates them.
            let belongs = strange == '+' || Recipient::parse(&format!("5{strange}321234567"), ForeignNumbers::Refused)
                != Err(RecipientError::Character(strange));
            let strange = if belongs { 'x' } else { strange };
            let mut characters: Vec<char> = subscriber.chars().collect();
            characters.insert(at, strange);
            let damaged: String = characters.into_iter().collect();
            let read = Recipient::parse(&damaged, ForeignNumbers::Allowed);
            prop_assert_eq!(read, Err(RecipientError::Character(strange)));
        }

        #[test]
        fn no_error_says_more_than_a_count(text in prop_oneof![any::<String>(), "[+0-9 x()./-]{0,40}"]) {
            let read = Recipient::parse(&text, ForeignNumbers::Refused);
            // The one character that it names may have to be shown by its number.
            if let Err(error) = read && !matches!(error, RecipientError::Character(_)) {
                let said = error.to_string();
                let longest = said.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
                prop_assert!(longest <= Some(3), "{said}");
            }
        }

        #[test]
        fn separators_and_prefixes_never_change_a_number((subscriber, typed) in spelling()) {
            let recipient = Recipient::parse(&typed, ForeignNumbers::Refused);
            let stored = format!("90{subscriber}");
            prop_assert_eq!(recipient.as_ref().map(Recipient::as_str), Ok(stored.as_str()));
        }

        #[test]
        fn whatever_is_read_is_in_stored_form_and_reads_as_itself(
            text in prop_oneof![any::<String>(), "[+0-9 ()./-]{0,24}", "\\+?0{0,3}(90)?0?[0-9]{7,15}"],
        ) {
            let masked = mask(&text);
            prop_assert!(masked.chars().filter(char::is_ascii_digit).count() <= 7);
            prop_assert!(masked.contains("•••••"));
            if let Ok(recipient) = Recipient::parse(&text, ForeignNumbers::Allowed) {
                prop_assert!(is_in_stored_form(recipient.as_str()), "{}", recipient.as_str());
                prop_assert_eq!(Recipient::parse(recipient.as_str(), ForeignNumbers::Allowed), Ok(recipient.clone()));
                let strict = Recipient::parse(&text, ForeignNumbers::Refused);
                prop_assert_eq!(strict.is_ok(), !recipient.is_foreign());
            }
        }
    }
}
