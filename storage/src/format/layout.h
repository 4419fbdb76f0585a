/*
 * format/layout.h: every byte of a log directory that is not a batch (those: qbatch/layout.h).
 *
 *   directory   := LOCK superblock LOG/segment-NNNNNN…          (LOG: "message", "action", "log")
 *   superblock  := super{4}                                      at 0, 4096, 8192, 12288
 *   segment     := segment-header frame…                         header at 0, frames from 4096 on
 *   frame       := frame-header records payloads zero-padding to 4096
 *   index       := index-header tables zero-padding to 4096      message/index-NNNNNN; derived
 *   record      := record-head bytes                             length a multiple of 8
 *
 * A position is a byte address in a log. Byte `p` lies in the segment with the largest base <= p,
 * at 4096 + (p - base) of its file. Names of segment files are hints; identity is in the header.
 *
 * Frames are never rewritten until their segment is recycled. What a reader may believe:
 *
 *   - a frame header is a frame only if its hash, magic, version, position and the incarnation of
 *     its segment fit, and it lies wholly inside the segment;
 *   - its generation is not below its predecessor's, and `previous` is the predecessor's header
 *     hash (not checked across a border behind which the older segment is gone);
 *   - above the newest durable mark, also every payload hash must be right.
 *
 * All numbers are little-endian. Every reserved byte is written as zero.
 *
 * To change the format: docs/format.md, "How to change the format".
 */
#ifndef QL_FORMAT_LAYOUT_H
#define QL_FORMAT_LAYOUT_H

#include <stdint.h>

enum {
    QL_FORMAT_VERSION = 0,
    QL_BLOCK = 4096, /* unit of placement: superblock copies, headers, frames */
    QL_LOGS_MAX = 4,
    QL_LOG_NAME_MAX = 16, /* with the terminating zero */
};

/* clang-format off */

/* Superblock copy, 4096 bytes. The copy with the highest `sequence` and a right hash counts. */
#define QL_SUPER_MAGIC 0x31505551u /* "QUP1" */
enum {
    QL_SUPER_COPIES       = 4,
    QL_SUPER_HASH         = 0,    /* u64: XXH3-64 of [8, 4096) */
    QL_SUPER_MAGIC_AT     = 8,    /* u32 */
    QL_SUPER_VERSION      = 12,   /* u16 */
    QL_SUPER_CLEAN        = 14,   /* u8: 1 after an orderly stop */
    QL_SUPER_LOG_COUNT    = 15,   /* u8 */
    QL_SUPER_STORE_ID     = 16,   /* 16 random bytes, in every segment header too */
    QL_SUPER_SEQUENCE     = 32,   /* u64: rises with every write of a copy */
    QL_SUPER_GENERATION   = 40,   /* u64: raised at every open that does not follow a clean stop */
    QL_SUPER_CREATED_MS   = 48,   /* u64 */
    QL_SUPER_WRITTEN_MS   = 56,   /* u64 */
    QL_SUPER_LOGS         = 64,   /* QL_LOGS_MAX x 64 bytes: */
    QL_SUPER_LOG_SIZE     = 64,
    QL_SUPER_LOG_NAME     = 0,    /* 16 bytes, zero padded */
    QL_SUPER_LOG_DURABLE  = 16,   /* u64: everything below is flushed */
    QL_SUPER_LOG_END      = 24,   /* u64: where the log ended when recovery or a clean stop said so */
    QL_SUPER_LOG_CHAIN    = 32,   /* u64: header hash of the last frame below END */
    QL_SUPER_LOG_INCARNATION = 40,/* u64: highest ever given to a segment of this log */
    QL_SUPER_LOG_FIRST    = 48,   /* u64: where the log begins; what lies below is dropped */
    QL_SUPER_LOG_ZEROED   = 56,   /* u64: the active segment was written up to here at least once */
    QL_SUPER_REPLAY       = 320,  /* QL_LOGS_MAX x u64: a start reads from here on; 0: from FIRST */
    QL_SUPER_SESSIONS     = 352,  /* u32: sessions given in this generation, at an orderly stop */
    QL_SUPER_PULLS        = 356,  /* u32: pull sequences that new consumers begin behind, by 256 */
    QL_SUPER_PRODUCERS    = 360,  /* u64: requests below this position of the message or delay log are in statements */
    QL_SUPER_SIZE         = 4096,
};

/* Segment header, one block. A spare has no base yet: its state is 0. */
#define QL_SEGMENT_MAGIC 0x31475351u /* "QSG1" */
enum {
    QL_SEGMENT_HASH        = 0,   /* u64: XXH3-64 of [8, 4096) */
    QL_SEGMENT_MAGIC_AT    = 8,   /* u32 */
    QL_SEGMENT_VERSION     = 12,  /* u16 */
    QL_SEGMENT_STATE       = 14,  /* u8: 0 spare, 1 in use */
    QL_SEGMENT_ZERO        = 15,  /* u8 */
    QL_SEGMENT_STORE_ID    = 16,  /* 16 bytes */
    QL_SEGMENT_LOG_NAME    = 32,  /* 16 bytes */
    QL_SEGMENT_INCARNATION = 48,  /* u64: unique in its log, for ever */
    QL_SEGMENT_BASE        = 56,  /* u64: position of its first frame */
    QL_SEGMENT_FILE_SIZE   = 64,  /* u64: header and frames, a multiple of 4096 */
    QL_SEGMENT_GENERATION  = 72,  /* u64 */
    QL_SEGMENT_CREATED_MS  = 80,  /* u64 */
    QL_SEGMENT_CHAIN       = 88,  /* u64: header hash of the frame before its first one */
    QL_SEGMENT_HEADER_SIZE = 4096,
};

/*
 * Index file: where the batches of a message segment are, from its base to `end`. Derived. A header
 * of one block, then tables, each behind the one before: entries, subjects, times, hashes of pages.
 */
#define QL_INDEX_MAGIC 0x32584951u /* "QIX2" */
enum {
    QL_INDEX_HASH          = 0,   /* u64: XXH3-64 of [8, 4096) */
    QL_INDEX_MAGIC_AT      = 8,   /* u32 */
    QL_INDEX_VERSION       = 12,  /* u16 */
    QL_INDEX_SEALED        = 14,  /* u8: 1: the last frame below `end` is a seal */
    QL_INDEX_ZERO          = 15,  /* u8 */
    QL_INDEX_STORE_ID      = 16,  /* 16 bytes */
    QL_INDEX_LOG_NAME      = 32,  /* 16 bytes */
    QL_INDEX_INCARNATION   = 48,  /* u64: of the segment */
    QL_INDEX_BASE          = 56,  /* u64: of the segment */
    QL_INDEX_END           = 64,  /* u64: position; batches above are not in it */
    QL_INDEX_CHAIN         = 72,  /* u64: header hash of the last frame below `end` */
    QL_INDEX_GENERATION    = 80,  /* u64: of that frame */
    QL_INDEX_WALL_MS       = 88,  /* u64: of that frame */
    QL_INDEX_CREATED_MS    = 96,  /* u64 */
    QL_INDEX_ROT_FROM      = 104, /* u64: damage that was found in the segment lies between here */
    QL_INDEX_ROT_TO        = 112, /* u64: and here; both 0: none */
    QL_INDEX_ENTRIES       = 120, /* u32: count */
    QL_INDEX_SUBJECTS      = 124, /* u32: count */
    QL_INDEX_TIMES         = 128, /* u32: count */
    QL_INDEX_KEYS          = 132, /* u32: count */
    QL_INDEX_PAGES_HASH    = 136, /* u64: XXH3-64 of the last table */
    QL_INDEX_HEADER_SIZE   = 4096,
    QL_INDEX_PAGE          = 16384, /* of the tables before the last one; the last page is what is left */

    /* An entry: one for each batch, by subject, then by sequence. */
    QL_INDEX_ENTRY_SEQUENCE      = 0,  /* u64: first */
    QL_INDEX_ENTRY_FRAME         = 8,  /* u32: position of its frame, from the base */
    QL_INDEX_ENTRY_FRAME_SIZE    = 12, /* u32 */
    QL_INDEX_ENTRY_ENVELOPE_AT   = 16, /* u32: from the frame's position, as the payload */
    QL_INDEX_ENTRY_ENVELOPE_SIZE = 20, /* u32 */
    QL_INDEX_ENTRY_PAYLOAD_AT    = 24, /* u32 */
    QL_INDEX_ENTRY_PAYLOAD_SIZE  = 28, /* u32: padded */
    QL_INDEX_ENTRY_COUNT         = 32, /* u32: messages */
    QL_INDEX_ENTRY_ZERO          = 36, /* u32 */
    QL_INDEX_ENTRY_SIZE          = 40,

    /* A subject, by id. */
    QL_INDEX_SUBJECT_ID    = 0,   /* u32 */
    QL_INDEX_SUBJECT_FIRST = 4,   /* u32: number of its first entry */
    QL_INDEX_SUBJECT_COUNT = 8,   /* u32: entries */
    QL_INDEX_SUBJECT_ZERO  = 12,  /* u32 */
    QL_INDEX_SUBJECT_NEXT  = 16,  /* u64: sequence behind its last message */
    QL_INDEX_SUBJECT_SIZE  = 24,

    /* A time: the first batch of a second of store time. */
    QL_INDEX_TIME_MS       = 0,   /* u64 */
    QL_INDEX_TIME_POSITION = 8,   /* u64: of its frame */
    QL_INDEX_TIME_SIZE     = 16,

    /* A row of the table of keys. */
    QL_INDEX_KEY_HASH  = 0,  /* u64 */
    QL_INDEX_KEY_ENTRY = 8,  /* u32: number of an entry */
    QL_INDEX_KEY_ZERO  = 12, /* u32 */
    QL_INDEX_KEY_SIZE  = 16,
};

/*
 * Schedule file: the batches of one segment of a delay log that is sealed, by due time. Derived. A
 * header of one block, pages of one block each, then a tail of tables, each behind the one before:
 * due times of the first entries of the pages, sequences that are replaced, subjects.
 */
#define QL_SCHEDULE_MAGIC 0x31445351u /* "QSD1" */
enum {
    QL_SCHEDULE_HASH           = 0,   /* u64: XXH3-64 of [8, 4096) */
    QL_SCHEDULE_MAGIC_AT       = 8,   /* u32 */
    QL_SCHEDULE_VERSION        = 12,  /* u16 */
    QL_SCHEDULE_ZERO           = 14,  /* u16 */
    QL_SCHEDULE_STORE_ID       = 16,  /* 16 bytes */
    QL_SCHEDULE_LOG_NAME       = 32,  /* 16 bytes */
    QL_SCHEDULE_INCARNATION    = 48,  /* u64: of the segment */
    QL_SCHEDULE_BASE           = 56,  /* u64: of the segment */
    QL_SCHEDULE_END            = 64,  /* u64: base of the next one */
    QL_SCHEDULE_GENERATION     = 72,  /* u64: of the last frame with a batch */
    QL_SCHEDULE_WALL_MS        = 80,  /* u64: of that frame */
    QL_SCHEDULE_BYTES          = 88,  /* u64: of all batches, envelopes and padded payloads */
    QL_SCHEDULE_MESSAGES       = 96,  /* u64: in all batches */
    QL_SCHEDULE_FIRST          = 104, /* u64: least delay sequence */
    QL_SCHEDULE_NEXT           = 112, /* u64: one above the greatest */
    QL_SCHEDULE_ENTRIES        = 120, /* u32: count */
    QL_SCHEDULE_REPLACED       = 124, /* u32: count */
    QL_SCHEDULE_SUBJECTS       = 128, /* u32: count */
    QL_SCHEDULE_SUBJECT_BYTES  = 132, /* u32: of their rows */
    QL_SCHEDULE_TAIL_HASH      = 136, /* u64: XXH3-64 of the tail, without its padding */
    QL_SCHEDULE_HEADER_SIZE    = 4096,

    /* A page. */
    QL_SCHEDULE_PAGE_HASH        = 0,  /* u64: XXH3-64 of [8, 4096) */
    QL_SCHEDULE_PAGE_INCARNATION = 8,  /* u64: of the segment */
    QL_SCHEDULE_PAGE_NUMBER      = 16, /* u32: from 0 */
    QL_SCHEDULE_PAGE_ENTRIES     = 20, /* u32: count: 92, of the last page what is left */
    QL_SCHEDULE_PAGE_HEAD        = 24,
    QL_SCHEDULE_PAGE_MAX         = 92, /* entries */
    QL_SCHEDULE_PAGE             = 4096,

    /* An entry: one for each batch, by due time, then by sequence. */
    QL_SCHEDULE_ENTRY_DUE_MS        = 0,  /* u64 */
    QL_SCHEDULE_ENTRY_SEQUENCE      = 8,  /* u64: first */
    QL_SCHEDULE_ENTRY_FRAME         = 16, /* u32: position of its frame, from the base */
    QL_SCHEDULE_ENTRY_ENVELOPE_AT   = 20, /* u32: from the frame's position, as the payload */
    QL_SCHEDULE_ENTRY_ENVELOPE_SIZE = 24, /* u32 */
    QL_SCHEDULE_ENTRY_PAYLOAD_AT    = 28, /* u32 */
    QL_SCHEDULE_ENTRY_PAYLOAD_SIZE  = 32, /* u32: padded */
    QL_SCHEDULE_ENTRY_COUNT         = 36, /* u32: messages */
    QL_SCHEDULE_ENTRY_SUBJECT       = 40, /* u32: id */
    QL_SCHEDULE_ENTRY_SIZE          = 44,

    /* A row of the table of subjects: the name follows, with zeros to a multiple of 8. */
    QL_SCHEDULE_SUBJECT_ID   = 0, /* u32 */
    QL_SCHEDULE_SUBJECT_NAME = 4, /* u32: bytes of the name */
    QL_SCHEDULE_SUBJECT_HEAD = 8,
};

/* Frame header, 128 bytes. */
#define QL_FRAME_MAGIC 0x31524651u /* "QFR1" */
enum {
    QL_FRAME_HASH          = 0,   /* u64: XXH3-64 of [8, 128) */
    QL_FRAME_MAGIC_AT      = 8,   /* u32 */
    QL_FRAME_VERSION       = 12,  /* u8 */
    QL_FRAME_KIND          = 13,  /* u8: enum ql_frame_kind */
    QL_FRAME_FLAGS         = 14,  /* u16: QL_FRAME_FLAG_* */
    QL_FRAME_POSITION      = 16,  /* u64: its own */
    QL_FRAME_INCARNATION   = 24,  /* u64: of its segment */
    QL_FRAME_EPOCH         = 32,  /* u64: reign of the broker group; 0 without replication */
    QL_FRAME_GENERATION    = 40,  /* u64 */
    QL_FRAME_BODY_LENGTH   = 48,  /* u32: records and payloads, without the padding */
    QL_FRAME_RECORDS_LENGTH= 52,  /* u32: of the records alone */
    QL_FRAME_RECORD_COUNT  = 56,  /* u32 */
    QL_FRAME_ZERO          = 60,  /* u32 */
    QL_FRAME_WALL_MS       = 64,  /* u64: clamped monotone within the log */
    QL_FRAME_DURABLE       = 72,  /* u64: the durable mark when the frame was built */
    QL_FRAME_PREVIOUS      = 80,  /* u64: header hash of the frame before; 0 for the first of a log */
    QL_FRAME_RECORDS_HASH  = 88,  /* u64: XXH3-64 of the records */
    QL_FRAME_RESERVED      = 96,  /* 32 bytes */
    QL_FRAME_HEADER_SIZE   = 128,

    QL_FRAME_FLAG_LAST     = 1 << 0, /* the next frame is the first of another segment */
};

/* Record head, 8 bytes; the first 8 of a batch's broker prefix are one. */
enum {
    QL_RECORD_KIND         = 0,   /* u16: format/record_list.h */
    QL_RECORD_FLAGS        = 2,   /* u16: 0 */
    QL_RECORD_LENGTH       = 4,   /* u32: with the head; a multiple of 8 */
    QL_RECORD_HEAD_SIZE    = 8,
};
/* clang-format on */

enum ql_frame_kind {
    QL_FRAME_DATA = 0,
    QL_FRAME_SEAL = 1, /* no records; flagged LAST */
};

_Static_assert(QL_FRAME_HEADER_SIZE % 8 == 0, "records are aligned to 8");
_Static_assert(
    QL_SUPER_LOGS + QL_LOGS_MAX * QL_SUPER_LOG_SIZE == QL_SUPER_REPLAY &&
        QL_SUPER_REPLAY + QL_LOGS_MAX * 8 == QL_SUPER_SESSIONS,
    "fields of the superblock");
_Static_assert(
    QL_SCHEDULE_PAGE_HEAD + QL_SCHEDULE_PAGE_MAX * QL_SCHEDULE_ENTRY_SIZE <= QL_SCHEDULE_PAGE,
    "a page of a schedule file");

#endif /* QL_FORMAT_LAYOUT_H */
