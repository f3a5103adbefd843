//! The spool's files: directories, the lock, segments made ahead and recycled, readers, acknowledgements.
//!
//! 1. [`Spool::open`] checks the place and the version, takes the lock and finds what a former run left.
//! 2. [`Spool::start`] starts the [`Keeper`], which has segments ready for the workers ([`ShardHandles`]) and tells
//!    egress of each ([`ShardFeed`]).
//! 3. A worker writes batches ([`Writes`]), [`Segment::publish`]es what may be read and lends it out from memory,
//!    [`Segment::seal`]s a full segment.
//! 4. Egress reads with a [`Reader`], from memory where it can, acknowledges with an [`AckWriter`], gives a wholly
//!    acknowledged segment back.
//!    What it does not deliver at once it copies to a [`DeferredLog`]; the next start finds that by [`read_backlog`].
//! 5. [`inspect`] reads all of it without the lock, [`list_set_aside`] also what was damaged.
//! 6. [`survey`] tells what a place is fit for.

mod acks;
mod backlog;
mod content;
mod deferred;
mod direct;
mod error;
mod handles;
pub mod inspect;
mod keeper;
mod loans;
mod open;
mod overlay;
mod reader;
mod rescue;
mod retention;
mod root;
mod segment;
mod shard;
mod site;
mod stock;
mod storage;

pub use acks::{AckSet, AckWriter};
pub use backlog::{FormerMail, read_backlog};
pub use content::{ContentFile, ContentFiles, ContentReader, content_path};
pub use deferred::{DeferError, Deferred, DeferredLog};
pub use direct::Writes;
pub use error::StoreError;
pub use handles::{Done, FormerContent, KeeperState, Nudge, ShardFeed, ShardHandles};
pub use keeper::Keeper;
pub use open::{Spool, SpoolOptions};
pub use reader::{Reader, describe, read_record};
pub use rescue::list_set_aside;
pub use retention::Retention;
pub use segment::Segment;
pub use site::{Remark, survey};
pub use storage::{Marks, Room, Storage};

#[cfg(test)]
mod tests;
