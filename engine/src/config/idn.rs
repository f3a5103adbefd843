//! Internationalized domain names (RFC 5890): one name, written with A-labels (`xn--..`) or with U-labels.

use std::borrow::Cow;

use idna::AsciiDenyList;

use crate::limits::SPELT_LABELS_COUNT_MAX;

/// The name with A-labels, in lower case; as it is where it is no name.
pub fn to_ascii(domain: &str) -> Cow<'_, str> {
    if domain.bytes().all(|octet| octet.is_ascii() && !octet.is_ascii_uppercase()) {
        return Cow::Borrowed(domain);
    }
    idna::domain_to_ascii_cow(domain.as_bytes(), AsciiDenyList::EMPTY).unwrap_or(Cow::Borrowed(domain))
}

/// The ways in which a client may write a domain that is given in lower case and with A-labels: each of its labels in
/// either form.
pub(super) fn spellings(domain: &str) -> Vec<String> {
    if !domain.contains("xn--") {
        return vec![domain.to_owned()];
    }
    let (unicode, result) = idna::domain_to_unicode(domain);
    if result.is_err() || unicode == domain {
        return vec![domain.to_owned()];
    }
    let labels: Vec<(&str, &str)> = domain.split('.').zip(unicode.split('.')).collect();
    let differing = labels.iter().enumerate().filter(|(_, (ascii, unicode))| ascii != unicode);
    let differing: Vec<usize> = differing.map(|(index, _)| index).take(SPELT_LABELS_COUNT_MAX).collect();
    let spelled = |choice: usize| {
        let label = |(index, &(ascii, unicode)): (usize, &(&str, &'_ str))| {
            let place = differing.iter().position(|&at| at == index).unwrap_or(SPELT_LABELS_COUNT_MAX - 1);
            if choice >> place & 1 == 1 { unicode.to_owned() } else { ascii.to_owned() }
        };
        labels.iter().enumerate().map(label).collect::<Vec<_>>().join(".")
    };
    (0..1 << differing.len()).map(spelled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_in_all_their_forms() {
        for (written, ascii) in [
            ("example.com", "example.com"),
            ("Example.COM", "example.com"),
            ("b\u{fc}cher.example", "xn--bcher-kva.example"),
            ("B\u{dc}CHER.example", "xn--bcher-kva.example"),
            ("bu\u{308}cher.example", "xn--bcher-kva.example"),
            ("XN--bcher-KVA.example", "xn--bcher-kva.example"),
            ("a_b.example", "a_b.example"),
            ("\u{65e5}\u{672c}.jp", "xn--wgv71a.jp"),
        ] {
            assert_eq!(to_ascii(written), ascii, "{written}");
        }
    }

    #[test]
    fn a_domain_has_a_spelling_for_each_choice() {
        assert_eq!(spellings("example.com"), ["example.com"]);
        assert_eq!(spellings("xn--bcher-kva.example"), ["xn--bcher-kva.example", "b\u{fc}cher.example"]);
        let both = spellings("xn--bcher-kva.xn--wgv71a");
        assert_eq!(both.len(), 4);
        for spelling in &both {
            assert_eq!(to_ascii(spelling), "xn--bcher-kva.xn--wgv71a", "{spelling}");
        }
        let many = ["xn--wgv71a"; 6].join(".");
        assert_eq!(spellings(&many).len(), 1 << SPELT_LABELS_COUNT_MAX);
        assert!(spellings(&many).iter().all(|spelling| to_ascii(spelling) == many));
        // What looks like an A-label and is none stays what it is.
        assert_eq!(spellings("xn--a-\u{e9}.example").len(), 1);
        assert_eq!(spellings("xn--99999999.example"), ["xn--99999999.example"]);
    }
}
