//! Telnet (RFC 854): what a console server negotiates is answered and taken out of what it says.

use super::{Heard, Protocol};

const SE: u8 = 240;
const SB: u8 = 250;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;
/// Interpret as command.
const IAC: u8 = 255;

const BINARY: u8 = 0;
const ECHO: u8 = 1;
const SUPPRESS_GO_AHEAD: u8 = 3;
/// What the other side may do.
const ITS: &[u8] = &[BINARY, ECHO, SUPPRESS_GO_AHEAD];
/// What we do when asked.
const OURS: &[u8] = &[BINARY, SUPPRESS_GO_AHEAD];
/// No subnegotiation is longer: one that doesn't end must not swallow the console.
const SUBNEGOTIATION: usize = 4096;

/// One connection.
pub(super) struct Telnet {
    state: State,
    its: Options,
    ours: Options,
}

#[derive(Clone, Copy)]
enum State {
    Text,
    /// After a carriage return, which a NUL may follow for nothing.
    Return,
    Command,
    /// After WILL, WONT, DO or DONT.
    Option(u8),
    /// So far in a subnegotiation, after an IAC or not.
    Within(usize, bool),
}

/// What was agreed on: `None` when an option was never spoken of. Who says it again isn't answered again,
/// so that no two machines can talk about options for ever.
struct Options([Option<bool>; 256]);

impl Options {
    /// Notes that an option is wanted or not; what to answer, if anything.
    fn agree(&mut self, option: u8, wanted: bool, may: &[u8]) -> Option<bool> {
        let now = wanted && may.contains(&option);
        let before = self.0[usize::from(option)].replace(now);
        // That nothing is to be done that was never done needs no answer.
        (before != Some(now) && (wanted || before.is_some())).then_some(now)
    }

    fn is_on(&self, option: u8) -> bool {
        self.0[usize::from(option)] == Some(true)
    }
}

impl Telnet {
    pub(super) fn new() -> Self {
        Self { state: State::Text, its: Options([None; 256]), ours: Options([None; 256]) }
    }

    fn negotiate(&mut self, verb: u8, option: u8, answer: &mut Vec<u8>) {
        let (agreed, yes, no) = match verb {
            WILL | WONT => (self.its.agree(option, verb == WILL, ITS), DO, DONT),
            _ => (self.ours.agree(option, verb == DO, OURS), WILL, WONT),
        };
        if let Some(on) = agreed {
            answer.extend([IAC, if on { yes } else { no }, option]);
        }
    }
}

impl Protocol for Telnet {
    fn heard(&mut self, bytes: &[u8], heard: &mut Heard) {
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (State::Text | State::Return, IAC) => State::Command,
                (State::Return, 0) if !self.its.is_on(BINARY) => State::Text,
                (State::Text | State::Return, _) => {
                    heard.text.push(byte);
                    if byte == b'\r' { State::Return } else { State::Text }
                }
                (State::Command, IAC) => {
                    heard.text.push(IAC);
                    State::Text
                }
                (State::Command, WILL | WONT | DO | DONT) => State::Option(byte),
                (State::Command, SB) => State::Within(0, false),
                (State::Command, _) | (State::Within(_, true), SE) => State::Text,
                (State::Option(verb), option) => {
                    self.negotiate(verb, option, &mut heard.answer);
                    State::Text
                }
                (State::Within(SUBNEGOTIATION, _), _) => State::Text,
                (State::Within(length, after), _) => {
                    State::Within(length + 1, byte == IAC && !after)
                }
            };
        }
    }

    fn typed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut sent = Vec::with_capacity(bytes.len());
        for (at, &byte) in bytes.iter().enumerate() {
            sent.push(byte);
            match byte {
                IAC => sent.push(IAC),
                b'\r' if !self.ours.is_on(BINARY) && bytes.get(at + 1) != Some(&b'\n') => {
                    sent.push(0);
                }
                _ => {}
            }
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hear(telnet: &mut Telnet, bytes: &[u8]) -> Heard {
        let mut heard = Heard::default();
        telnet.heard(bytes, &mut heard);
        heard
    }

    #[test]
    fn options_are_answered_once_and_taken_out() {
        let mut telnet = Telnet::new();
        let said = [b"a", &[IAC, WILL, ECHO, IAC, DO, 24, IAC, DO, BINARY][..], b"b"].concat();
        let heard = hear(&mut telnet, &said);
        assert_eq!(heard.text, b"ab");
        assert_eq!(heard.answer, [IAC, DO, ECHO, IAC, WONT, 24, IAC, WILL, BINARY]);
        assert_eq!(hear(&mut telnet, &said).answer, b"");
        assert_eq!(hear(&mut telnet, &[IAC, DONT, BINARY]).answer, [IAC, WONT, BINARY]);
        assert_eq!(hear(&mut telnet, &[IAC, WONT, 99]).answer, b"");
    }

    #[test]
    fn a_storm_of_negotiation_is_not_answered_with_one() {
        let mut telnet = Telnet::new();
        let storm: Vec<u8> = (0..=255).cycle().take(100_000).flat_map(|o| [IAC, DO, o]).collect();
        assert_eq!(hear(&mut telnet, &storm).answer.len(), 3 * 256);
    }

    #[test]
    fn subnegotiations_are_left_out_and_one_without_end_is_given_up() {
        let mut telnet = Telnet::new();
        let said = [IAC, SB, 24, 1, IAC, IAC, b'x', IAC, SE, b'y'];
        assert_eq!(hear(&mut telnet, &said).text, b"y");
        let said = [&[IAC, SB][..], &[b'z'; SUBNEGOTIATION + 10]].concat();
        assert_eq!(hear(&mut telnet, &said).text.len(), 9);
    }

    #[test]
    fn carriage_returns_have_a_nul_after_them_unless_binary() {
        let mut telnet = Telnet::new();
        assert_eq!(hear(&mut telnet, b"a\r\0b\0\r\n").text, b"a\rb\0\r\n");
        assert_eq!(telnet.typed(b"ls\r\xff"), b"ls\r\0\xff\xff");
        hear(&mut telnet, &[IAC, WILL, BINARY, IAC, DO, BINARY]);
        assert_eq!(hear(&mut telnet, b"a\r\0b").text, b"a\r\0b");
        assert_eq!(telnet.typed(b"ls\r"), b"ls\r");
    }

    proptest! {
        /// However it is cut, what one side types the other hears.
        #[test]
        fn what_is_typed_is_heard(bytes: Vec<u8>, cut: usize) {
            let mut telnet = Telnet::new();
            let sent = telnet.typed(&bytes);
            let (first, second) = sent.split_at(cut % (sent.len() + 1));
            let mut text = hear(&mut telnet, first).text;
            text.extend(hear(&mut telnet, second).text);
            prop_assert_eq!(text, bytes);
        }
    }
}
