//! What a configuration, a list or a rule set may say.

use std::time::Duration;

use super::BDAT_LEN_MAX;

/// Characters of a listener's name, which stands in each envelope, line of the log and metric.
pub const LISTENER_NAME_LEN_MAX: usize = 32;
/// Characters of a banner: the greeting is one line. RFC 5321 §4.5.3.1.5.
pub const BANNER_LEN_MAX: usize = 200;
/// The most that the largest message may be configured to: as much as a chunk that is read although it is refused.
pub const MESSAGE_SIZE_MOST: u64 = BDAT_LEN_MAX;
/// The most that the connections of a listener at a worker may be configured to: what a slot's number has room for.
pub const CONNECTIONS_COUNT_MOST: usize = 1 << 20;
/// Characters of a reply's text that is configured: with its codes and the URL behind it, it is one line. RFC 5321
/// §4.5.3.1.5.
pub const REPLY_TEXT_LEN_MAX: usize = 280;
/// Characters of the URL behind texts of replies.
pub const HELP_URL_LEN_MAX: usize = 200;
/// Workers: the index of one is 8 bits of each session id.
pub const WORKERS_COUNT_MAX: usize = 256;
/// The most that a client may be made to wait by configuration, before the greeting or a reply: half of the 5 minutes
/// that it waits at least. RFC 5321 §4.5.3.2.1.
pub const DELAY_TIME_MOST: Duration = Duration::from_secs(150);
/// Less than this for a command is warned of. RFC 5321 §4.5.3.2.7.
pub const COMMAND_TIMEOUT_LEAST: Duration = Duration::from_secs(5 * 60);
/// And for a piece of content. RFC 5321 §4.5.3.2.5.
pub const DATA_TIMEOUT_LEAST: Duration = Duration::from_secs(3 * 60);
/// Characters of a tag, which stands in envelopes.
pub const TAG_LEN_MAX: usize = 64;
/// Characters of the text of a rule's reply: with its codes it is one line. RFC 5321 §4.5.3.1.5.
pub const RULE_TEXT_LEN_MAX: usize = 400;
/// Separators of subaddresses: RFC 5233 §3 leaves them to the site, and more than these nobody needs at once.
pub const SEPARATORS_COUNT_MAX: usize = 8;
/// Octets of a secret in a file; what is longer is not a secret but the wrong file.
pub const SECRET_LEN_MAX: u64 = 64 << 10;
/// U-labels of one domain of which each is looked up in both of its forms; of those behind them only the A-label and
/// the U-label of all together. 2 to the power of this is how many names a domain becomes.
pub const SPELT_LABELS_COUNT_MAX: usize = 4;
/// Octets of a line of a list: the longest mailbox, and as much of comment. What is longer is no such list.
pub const LIST_LINE_LEN_MAX: usize = 1024;
/// Lines of a file that are each reported; the others are counted.
pub const BAD_LINES_COUNT_MAX: usize = 10;
/// Files of one configuration. A bound so that a mistake ends soon, and with an error.
pub const INCLUDED_FILES_COUNT_MAX: usize = 100;
/// Rules that are named in one message.
pub const NAMED_RULES_COUNT_MAX: usize = 5;
/// Different tags of all rules: a transaction has a bit for each.
pub const TAGS_COUNT_MAX: usize = 64;
/// Different things that the rules of a stage ask of TLS: a command has a bit for each.
pub const PROTECTIONS_COUNT_MAX: usize = 64;
/// Entries of the lists of rules that networks lead to, together: 128 MiB. Beyond it a lookup would not be the problem,
/// but the memory.
pub const RULE_LIST_ENTRIES_COUNT_MAX: usize = if cfg!(test) { 1 << 20 } else { 1 << 26 };
