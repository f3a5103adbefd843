//! What is done about line ends in content that are not CRLF.

use crate::protocol::data::End;

/// The listener's choice. In each of them what is stored has no line end but CRLF, and a look-alike of end-of-data made
/// with NULs is refused: it would be stored as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BareNewline {
    /// A bare CR or LF is stored as CRLF; the look-alikes of end-of-data are refused.
    #[default]
    Normalize,
    /// A message with a bare CR or LF is refused.
    Reject,
    /// A bare CR or LF is stored as CRLF, look-alikes too, and the log says so.
    Note,
}

/// Why content is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Lookalike,
    BareNewline,
}

impl BareNewline {
    pub const ALL: [Self; 3] = [Self::Normalize, Self::Reject, Self::Note];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normalize => "normalize",
            Self::Reject => "reject",
            Self::Note => "note",
        }
    }

    pub fn verdict(self, end: End) -> Result<(), Refusal> {
        match self {
            _ if end.nul_lookalike => Err(Refusal::Lookalike),
            Self::Note => Ok(()),
            Self::Normalize | Self::Reject if end.lookalike => Err(Refusal::Lookalike),
            Self::Reject if end.bare_newlines => Err(Refusal::BareNewline),
            Self::Normalize | Self::Reject => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_and_each_kind_of_content() {
        let (ok, lookalike, bare) = (Ok(()), Err(Refusal::Lookalike), Err(Refusal::BareNewline));
        for (bare_newlines, is_lookalike, nul_lookalike, verdicts) in [
            (false, false, false, [ok, ok, ok]),
            (true, false, false, [ok, bare, ok]),
            (true, true, false, [lookalike, lookalike, ok]),
            (false, false, true, [lookalike; 3]),
            (true, true, true, [lookalike; 3]),
        ] {
            let end = End { lookalike: is_lookalike, nul_lookalike, bare_newlines };
            assert_eq!(BareNewline::ALL.map(|choice| choice.verdict(end)), verdicts, "{end:?}");
        }
    }
}
