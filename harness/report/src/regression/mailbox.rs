//! Recipients: addresses that are checked, and the headers of a mail.

use std::fmt;

use crate::text::clean;

/// Columns of a header's line, without the space of one that goes on: RFC 2047 (2) allows 76 where there are
/// encoded words.
const COLUMNS: usize = 75;
/// Columns of text in one encoded word, which has twelve more and stands beside the header's name.
const WORD: usize = 48;
/// What the subject has to begin with.
const MARK: &str = "[REGRESSION]";
/// Characters of a subject.
const SUBJECT: usize = 200;

/// Someone whom a mail goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Who.
    pub mailbox: Mailbox,
    /// Written to, rather than sent a copy.
    pub to: bool,
    /// Why, for whoever sends the mail; it is not in the mail.
    pub reason: String,
}

/// A checked address, with a name or without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    name: String,
    address: String,
}

impl Mailbox {
    /// Reads `NAME <ADDRESS>` or `ADDRESS`, as `MAINTAINERS` and commits have them; what follows the
    /// address, such as `(moderated list)`, is left out. `None` where there is no address that every mail
    /// program takes as one and the same.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (name, address) = match text.split_once('<') {
            Some((name, rest)) => (name, rest.split_once('>')?.0),
            None => ("", text.split_whitespace().next()?),
        };
        let name = clean(name.trim().trim_matches('"'));
        (is_address(address) && name.len() <= 100)
            .then(|| Self { name, address: address.to_owned() })
    }

    /// The address alone.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// For a header.
    fn encoded(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~ ".contains(c);
        let name = match &*self.name {
            "" => return self.address.clone(),
            name if name.chars().all(plain) && !name.contains("=?") => name.to_owned(),
            name if name.is_ascii() && !name.contains("=?") => {
                format!("\"{}\"", name.replace('\\', r"\\").replace('"', "\\\""))
            }
            name => encoded_words(name),
        };
        format!("{name} <{}>", self.address)
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.name {
            "" => f.write_str(&self.address),
            name => write!(f, "{name} <{}>", self.address),
        }
    }
}

/// Whether it is an address of plain words (RFC 5321's `Dot-string` at a domain with a dot).
fn is_address(text: &str) -> bool {
    let word = |word: &str, more: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let label = |label: &str| {
        word(label, "-") && !label.starts_with('-') && !label.ends_with('-') && label.len() <= 63
    };
    let Some((local, domain)) = text.split_once('@') else { return false };
    text.len() <= 254
        && local.len() <= 64
        && local.split('.').all(|part| word(part, "!#$%&'*+-/=?^_`{|}~"))
        && domain.contains('.')
        && domain.split('.').all(label)
}

/// The headers, each address once, the subject marked as that of a regression, with the empty line that
/// ends them. From and Date are the mail program's.
pub(super) fn headers(recipients: &[Recipient], subject: &str) -> String {
    let mut text = String::new();
    let mut known: Vec<String> = Vec::new();
    // Who is written to needs no copy.
    for (name, to) in [("To", true), ("Cc", false)] {
        let mut list = Vec::new();
        for recipient in recipients.iter().filter(|recipient| recipient.to == to) {
            let address = recipient.mailbox.address.to_ascii_lowercase();
            if !known.contains(&address) {
                known.push(address);
                list.push(recipient.mailbox.encoded());
            }
        }
        if !list.is_empty() {
            let lines = format!("{name}: {}", list.join(",\n"));
            text += &lines.lines().map(folded).collect::<Vec<_>>().join(" ");
        }
    }
    let subject: String = clean(subject).chars().take(SUBJECT).collect();
    let subject = match subject.is_ascii() && !subject.contains("=?") {
        true => subject,
        false => encoded_words(&subject),
    };
    text += &folded(&format!("Subject: {MARK} {subject}"));
    text + "MIME-Version: 1.0\n\
            Content-Type: text/plain; charset=utf-8\n\
            Content-Transfer-Encoding: 8bit\n\n"
}

/// A header in lines that are short where its words are.
fn folded(header: &str) -> String {
    let mut text = String::new();
    let mut columns = 0;
    for word in header.split_whitespace() {
        if columns > 0 {
            let fold = columns + 1 + word.len() > COLUMNS;
            text += if fold { "\n " } else { " " };
            columns = if fold { 1 } else { columns + 1 };
        }
        text += word;
        columns += word.len();
    }
    text + "\n"
}

/// Text that is not ASCII, as RFC 2047 has it.
fn encoded_words(text: &str) -> String {
    let byte = |b: u8| match b {
        b' ' => "_".to_owned(),
        b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
        b => format!("={b:02X}"),
    };
    let mut words = vec![String::new()];
    for c in text.chars() {
        let c: String = c.encode_utf8(&mut [0; 4]).bytes().map(byte).collect();
        match words.last_mut().filter(|word| word.len() + c.len() <= WORD) {
            Some(word) => *word += &c,
            None => words.push(c),
        }
    }
    let words: Vec<String> = words.iter().map(|word| format!("=?utf-8?Q?{word}?=")).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn to(text: &str) -> Recipient {
        let mailbox = Mailbox::parse(text).expect(text);
        Recipient { mailbox, to: true, reason: String::new() }
    }

    #[test]
    fn headers_are_encoded_and_folded() {
        let recipients = [
            to("Toke Høiland-Jørgensen <toke@toke.dk>"),
            to("\"Rafael J. Wysocki\" <rafael@kernel.org>"),
            to("linux-arm-kernel@lists.infradead.org (moderated for non-subscribers)"),
            Recipient { to: false, ..to("TOKE@toke.dk") },
            Recipient { to: false, ..to("regressions@lists.linux.dev") },
        ];
        let subject = "a title that is so long that it has to be folded, so that no line of \
                       the header is longer than mail programs show";
        insta::assert_snapshot!(headers(&recipients, subject), @r##"
        To: =?utf-8?Q?Toke_H=C3=B8iland=2DJ=C3=B8rgensen?= <toke@toke.dk>,
         "Rafael J. Wysocki" <rafael@kernel.org>,
         linux-arm-kernel@lists.infradead.org
        Cc: regressions@lists.linux.dev
        Subject: [REGRESSION] a title that is so long that it has to be folded, so
         that no line of the header is longer than mail programs show
        MIME-Version: 1.0
        Content-Type: text/plain; charset=utf-8
        Content-Transfer-Encoding: 8bit
        "##);
        insta::assert_snapshot!(headers(&[], "größer =?utf-8?Q?x?="), @r##"
        Subject: [REGRESSION]
         =?utf-8?Q?gr=C3=B6=C3=9Fer_=3D=3Futf=2D8=3FQ=3Fx=3F=3D?=
        MIME-Version: 1.0
        Content-Type: text/plain; charset=utf-8
        Content-Transfer-Encoding: 8bit
        "##);
    }

    #[test]
    fn what_is_no_plain_address_is_refused() {
        for text in [
            "",
            "joe",
            "joe@localhost",
            "joe@@x.org",
            "@x.org",
            "joe@x..org",
            "joe@-x.org",
            "joe smith@x.org",
            "a.@x.org",
            "\"joe\"@x.org",
            "Joe <joe@x.org",
            "joe@x.org,eve@x.org",
            "Joe <joe@x.org\nBcc: eve@x.org>",
            "Joe <joe@x.org\u{a0}>",
            "joe@büro.de",
        ] {
            assert_eq!(Mailbox::parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_becomes_a_header(name in any::<String>(), subject in any::<String>()) {
            let mailbox = Mailbox::parse(&format!("{name} <joe@example.org>"));
            let recipients = mailbox.map(|mailbox| Recipient { mailbox, to: true, reason: String::new() });
            let text = headers(recipients.as_slice(), &subject);
            prop_assert!(text.is_ascii());
            for line in text.trim_end().lines() {
                let known = ["To: ", "Subject: ", "MIME-Version: ", "Content-", " "];
                prop_assert!(known.iter().any(|k| line.starts_with(k)), "{line:?}");
                prop_assert!(line.len() < 998 && !line.contains(|c: char| c.is_control()));
                prop_assert!(line.len() <= 76 || !line.contains("=?"), "{line:?}");
            }
            prop_assert_eq!(text.matches("\n\n").count(), 1);
        }
    }
}
