//! The filter of a list or watch, whatever its encoding.
//!
//! In: the encoding, whether the request is a watch, pieces of the body, and which items are hidden. Out: the body without
//! them. After an error the filter answers nothing but that error.

use crate::error::FilterError;
use crate::head::{Counts, ItemHead, Judge, Nameless};
use crate::media::Encoding;
use crate::{json, protobuf};

/// A buffer larger than that is given back once it is empty, after each piece: most items are smaller.
const KEPT_CAPACITY: usize = 16 * 1024;

/// Takes hidden items out of a response.
#[derive(Debug)]
pub struct Filter {
    body: Body,
    counts: Counts,
    failed: Option<FilterError>,
    /// The capacity of the buffer for what has come in part, in bytes.
    held: usize,
}

#[derive(Debug)]
enum Body {
    JsonList(json::JsonList),
    JsonWatch(json::JsonWatch),
    ProtobufList(protobuf::ProtobufList),
    ProtobufWatch(protobuf::ProtobufWatch),
}

impl Filter {
    /// For a list, or for a Status in its place.
    pub fn list(encoding: Encoding) -> Filter {
        Filter::new(match encoding {
            Encoding::Json => Body::JsonList(json::JsonList::new()),
            Encoding::Protobuf => Body::ProtobufList(protobuf::ProtobufList::new()),
        })
    }

    /// For a watch's events. A watch that failed answers with a Status in place of events: that is a list's filter's work.
    pub fn watch(encoding: Encoding) -> Filter {
        Filter::new(match encoding {
            Encoding::Json => Body::JsonWatch(json::JsonWatch::default()),
            Encoding::Protobuf => Body::ProtobufWatch(protobuf::ProtobufWatch::default()),
        })
    }

    fn new(body: Body) -> Filter {
        Filter {
            body,
            counts: Counts::default(),
            failed: None,
            held: 0,
        }
    }

    /// Goes on with the next piece of the body, and puts out what may be shown. What was put out before an error may be shown.
    ///
    /// # Errors
    /// When it cannot be told what is hidden. Nothing more of the response may reach the client then.
    pub fn push(
        &mut self,
        piece: &[u8],
        hides: &mut dyn FnMut(&ItemHead<'_>) -> bool,
        out: &mut Vec<u8>,
    ) -> Result<(), FilterError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut judge = Judge {
            hides,
            nameless: Nameless::Refuse,
            counts: self.counts,
        };
        let pushed = match &mut self.body {
            Body::JsonList(list) => list.push(piece, &mut judge, out),
            Body::JsonWatch(watch) => watch.push(piece, &mut judge, out),
            Body::ProtobufList(list) => list.push(piece, &mut judge, out),
            Body::ProtobufWatch(watch) => watch.push(piece, &mut judge, out),
        };
        self.counts = judge.counts;
        let buffer = self.buffer();
        if buffer.is_empty() && buffer.capacity() > KEPT_CAPACITY {
            *buffer = Vec::new();
        }
        self.held = buffer.capacity();
        pushed.inspect_err(|error| self.failed = Some(*error))
    }

    /// The body is over.
    ///
    /// # Errors
    /// When it ended too early: the client must not take it for complete.
    pub fn finish(&self) -> Result<Counts, FilterError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match &self.body {
            Body::JsonList(list) => list.finish(),
            Body::JsonWatch(watch) => watch.finish(),
            Body::ProtobufList(list) => list.finish(),
            Body::ProtobufWatch(watch) => watch.finish(),
        }?;
        Ok(self.counts)
    }

    /// How much memory is held for what has come in part, in bytes.
    pub fn held(&self) -> usize {
        self.held
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        match &mut self.body {
            Body::JsonList(list) => list.buffer(),
            Body::JsonWatch(watch) => watch.buffer(),
            Body::ProtobufList(list) => list.buffer(),
            Body::ProtobufWatch(watch) => watch.buffer(),
        }
    }

    /// How many items were judged so far, and how many of them were hidden.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}
