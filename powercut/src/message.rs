//! Messages that tell by themselves whether they are whole.

use ::tests::maildir::with_crlf;
use ::tests::random::Random;

const FIELD: &[u8] = b"X-Powercut: ";

/// A message of about `len` octets, with CRLF line ends.
pub(crate) fn generate(key: &str, len: usize, random: &mut Random) -> Vec<u8> {
    let mut body = Vec::with_capacity(len + 80);
    while body.len() < len {
        // Dots in front are stuffed on the way, and empty lines are lines.
        for _ in 0..random.below(76) {
            body.push(*random.pick(b"abcdefghijklmnopqrstuvwxyz..... "));
        }
        body.push(b'\n');
    }
    let head = format!("Subject: powercut\nX-Powercut: {key} {} {:016x}\n\n", body.len(), checksum(&body));
    with_crlf(&[head.as_bytes(), &body].concat())
}

/// The key of a message as a Maildir holds it; what is wrong with it otherwise.
pub(crate) fn check(file: &[u8]) -> Result<String, String> {
    let start = find(file, FIELD).ok_or("its field is missing")? + FIELD.len();
    let end = start + find(&file[start..], b"\n\n").ok_or("it ends within its header")?;
    let field = String::from_utf8_lossy(&file[start..end]);
    let [key, len, sum] = field.split(' ').collect::<Vec<_>>()[..] else {
        return Err("its field is cut".into());
    };
    let body = &file[end + 2..];
    if len.parse() != Ok(body.len()) {
        return Err(format!("{key} has {} octets instead of {len}", body.len()));
    }
    if sum != format!("{:016x}", checksum(body)) {
        return Err(format!("{key} has other octets than were sent"));
    }
    // The envelope belongs to the content: a reverse-path of another message would be one swapped.
    let return_path = format!("Return-Path: <{key}@client.example>\n");
    if !file.starts_with(return_path.as_bytes()) {
        return Err(format!("{key} has another message's envelope"));
    }
    Ok(key.to_owned())
}

/// FNV-1a, 64 bits.
fn checksum(octets: &[u8]) -> u64 {
    octets
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &octet| (sum ^ u64::from(octet)).wrapping_mul(0x100_0000_01b3))
}

fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    within.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::tests::maildir::with_lf;

    #[test]
    fn a_message_knows_whether_it_is_whole() {
        let content = with_lf(&generate("a-1", 3000, &mut Random::new(1)));
        let file = [b"Return-Path: <a-1@client.example>\nDelivered-To: b\n".as_slice(), &content].concat();
        assert_eq!(check(&file), Ok("a-1".to_owned()));
        for at in 0..file.len() {
            assert!(check(&file[..at]).is_err(), "cut at {at}");
        }
        let from = file.len() - 2900;
        for at in from..file.len() {
            let mut file = file.clone();
            file[at] ^= 1;
            assert!(check(&file).is_err(), "changed at {at}");
        }
        let swapped = [b"Return-Path: <a-2@client.example>\n".as_slice(), &content].concat();
        assert!(check(&swapped).unwrap_err().contains("envelope"));
    }
}
