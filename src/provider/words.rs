//! Other people's words, and what of them may be kept in a row and in a log.
//!
//! An answer may echo what was sent, in any form: a number with dots in it, half of a text, a code of four digits, characters
//! that turn a line around. So nothing of an answer is ever quoted. What is recognised is said in words that stand here:
//! the provider's documented sentences, and the names of the fields that we send.

use super::reply::Tree;

/// What the provider says in its documentation, error-codes page and samples.
const SENTENCES: [&str; 24] = [
    "İşlem başarılı",
    "İstek çözümlenemedi",
    "Üyelik bilgileri hatalı",
    "API erişim izniniz yok",
    "Bakiye yetersiz",
    "Aktif abonelik bulunamadı",
    "API istek yapılan yönteme sahip değil",
    "İstek doğrulanamadı",
    "Gönderilen başlık kullanıma uygun değil",
    "Tekrar eden sipariş",
    "Mesaj alıcıları hatalı",
    "Sipariş boyutu aşıldı",
    "Mesaj metni boş",
    "Sipariş bulunamadı",
    "Sipariş gönderim tarihi henüz gelmedi",
    "Mesaj gönderim tarihinin formatı hatalı",
    "Tarih aralığı hatalı",
    "Hatalı numara",
    "Evrak bilgisi eksik",
    "IYS kodunuzu ayarlamalısınız",
    "Sunucu geçici olarak servis dışı",
    // Of the frameworks that answer in the provider's place.
    "Unauthenticated.",
    "Too Many Attempts.",
    "Server Error",
];

/// The fields of a request, as the provider's `errors` may name them.
const FIELDS: [&str; 18] = [
    "request",
    "authentication",
    "key",
    "hash",
    "order",
    "sender",
    "iys",
    "iysList",
    "sendDateTime",
    "message",
    "text",
    "receipents",
    "number",
    "filter",
    "start",
    "end",
    "page",
    "rowCount",
];

/// What is recognised in an answer: `İstek doğrulanamadı; sender, message.text`.
pub(super) fn recognised(answer: &Tree) -> Option<String> {
    let sentence = answer
        .at(&["response", "status", "message"])
        // Frameworks answer outside the envelope when they fail themselves.
        .or_else(|| answer.at(&["message"]))
        .and_then(Tree::as_text)
        .and_then(sentence);
    let mut fields: Vec<String> = match answer.at(&["response", "errors"]) {
        Some(Tree::Map(errors)) => errors.iter().filter_map(|(name, _)| field(name)).collect(),
        _ => Vec::new(),
    };
    fields.sort_unstable();
    fields.dedup();
    let said: Vec<String> = sentence
        .map(str::to_owned)
        .into_iter()
        .chain((!fields.is_empty()).then(|| fields.join(", ")))
        .collect();
    (!said.is_empty()).then(|| said.join("; "))
}

fn sentence(said: &str) -> Option<&'static str> {
    let said = said.trim().trim_end_matches('.');
    SENTENCES
        .into_iter()
        .find(|known| known.trim_end_matches('.') == said)
}

/// `order.message.text`, also where a place in a list is named: `number.17` is `number`.
fn field(path: &str) -> Option<String> {
    let mut names = Vec::new();
    for name in path.split('.') {
        match FIELDS.into_iter().find(|known| *known == name) {
            Some(known) => names.push(known),
            None if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) => {}
            None => return None,
        }
    }
    // No path is as long as one that names each field once.
    (1..=FIELDS.len())
        .contains(&names.len())
        .then(|| names.join("."))
}

/// The longest that a library says, in characters.
const LONGEST_CAUSE: usize = 300;

/// What a library says about a connection, fit for a row and a log line: on one line, bounded, and without anything that
/// could be a phone number. It has not seen an order; a certificate or a header may be quoted in it.
pub(super) fn scrub(words: &str) -> String {
    let words = words
        .split(|c: char| c.is_whitespace() || c.is_control() || turns_a_line_around(c))
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    let words = hide_numbers(&words);
    match words.char_indices().nth(LONGEST_CAUSE) {
        Some((end, _)) => format!("{}…", words[..end].trim_end()),
        None => words,
    }
}

/// Marks and overrides of direction, which make a line read as something else.
fn turns_a_line_around(c: char) -> bool {
    matches!(c, '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

/// Hides every run of seven digits or more, with or without the separators that people put between them.
fn hide_numbers(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    // A possible number: where its digits begin in `shown`, where the last of them ends, and how many there are.
    let mut run: Option<(usize, usize, usize)> = None;
    let hide = |shown: &mut String, run: Option<(usize, usize, usize)>| {
        if let Some((start, end, digits)) = run
            && digits >= 7
        {
            shown.replace_range(start..end, "•••••");
        }
    };
    for c in text.chars() {
        let is_separator = matches!(c, ' ' | '-' | '.' | '/' | '(' | ')' | '+');
        if c.is_numeric() {
            let (start, _, digits) = run.unwrap_or((shown.len(), 0, 0));
            shown.push(c);
            run = Some((start, shown.len(), digits + 1));
        } else {
            if !is_separator {
                hide(&mut shown, run.take());
            }
            shown.push(c);
        }
    }
    hide(&mut shown, run);
    shown
}
