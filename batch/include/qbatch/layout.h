/*
 * qbatch/layout.h: the bytes of a batch, as client, wire and disk share them.
 *
 *   batch     := envelope payload
 *   envelope  := header entry{message_count} key{key_count} tag{tag_count} zero-padding to 8
 *   entry     := 32 bytes for each message, see QBATCH_ENTRY_*
 *   key       := u32 message index, u32 zero, u64 XXH3-64 of the key         (sorted by index)
 *   tag       := u8 length (1…255), bytes                (the batch's dictionary, at most 64)
 *   payload   := content, or LZ4 block of content; zero-padding to 8
 *   content   := message{message_count}
 *   message   := u16 property count, u16 property bytes, property{count}, body
 *   property  := u16 key length, u16 value length, key, value
 *
 * An entry names the length and the hash of its message, so messages can be cut out of an
 * uncompressed batch and still be checked end to end. Tags of a message are a bitmap over the
 * batch's dictionary. A request, a frame and an answer hold all their envelopes first and all
 * their payloads after them, in the same order.
 *
 * The first QBATCH_PREFIX_SIZE bytes of an envelope belong to the broker: a producer leaves them
 * zero, and no hash of the producer covers them.
 *
 * To change the format: docs/format.md, "How to change the format".
 *
 * All numbers are little-endian. Readers use q_load_le*(): envelopes need no alignment.
 */
#ifndef QBATCH_LAYOUT_H
#define QBATCH_LAYOUT_H

/* clang-format off */
enum {
    /* Broker's prefix; its first 8 bytes are a record head (storage: format/layout.h). */
    QBATCH_RECORD_KIND    = 0,    /* u16: QBATCH_RECORD_KIND_BATCH once stored, else 0 */
    QBATCH_RECORD_FLAGS   = 2,    /* u16: 0 */
    QBATCH_RECORD_LENGTH  = 4,    /* u32: envelope length once stored, else 0 */
    QBATCH_SUBJECT_ID     = 8,    /* u32 */
    QBATCH_PREFIX_ZERO    = 12,   /* u32 */
    QBATCH_FIRST_SEQUENCE = 16,   /* u64 */
    QBATCH_STORE_TIME_MS  = 24,   /* u64: broker's wall clock, clamped monotone */
    QBATCH_PREFIX_SIZE    = 32,

    /* Producer's part. */
    QBATCH_ENVELOPE_HASH  = 32,   /* u64: XXH3-64 of [40, envelope length) */
    QBATCH_MAGIC          = 40,   /* u32: QBATCH_MAGIC_VALUE */
    QBATCH_VERSION        = 44,   /* u8: QBATCH_VERSION_VALUE */
    QBATCH_CODEC          = 45,   /* u8: enum qbatch_codec */
    QBATCH_FLAGS          = 46,   /* u16: QBATCH_FLAG_* */
    QBATCH_ENVELOPE_LENGTH= 48,   /* u32: multiple of 8 */
    QBATCH_PAYLOAD_LENGTH = 52,   /* u32: stored bytes, without the padding */
    QBATCH_CONTENT_LENGTH = 56,   /* u32: bytes before compression */
    QBATCH_MESSAGE_COUNT  = 60,   /* u32: 1 … QBATCH_MESSAGES_MAX */
    QBATCH_KEY_COUNT      = 64,   /* u32 */
    QBATCH_TAG_COUNT      = 68,   /* u16: 0 … 64 */
    QBATCH_HEADER_ZERO    = 70,   /* u16 */
    QBATCH_BASE_TIME_MS   = 72,   /* u64: creation of the earliest message; below 2^48 */
    QBATCH_PRODUCER_ID    = 80,   /* 16 bytes, random for each producer process */
    QBATCH_REQUEST_SEQUENCE = 96, /* u64: counts the producer's requests to one broker group */
    QBATCH_REQUEST_INDEX  = 104,  /* u32: this batch among those of its request */
    QBATCH_REQUEST_COUNT  = 108,  /* u32: batches in the request */
    QBATCH_PAYLOAD_HASH   = 112,  /* u64: XXH3-64 of the stored payload, without the padding */
    QBATCH_DUE_OR_ORIGIN  = 120,  /* u64: by the flags; without one of them 0 */
    QBATCH_HEADER_SIZE    = 128,

    QBATCH_FLAG_DELAYED   = 1 << 0, /* to be stored by a delay store: due at that time, ms; below 2^48 */
    QBATCH_FLAG_FORWARDED = 1 << 1, /* not from its producer: the 48 bits that its ids have */

    QBATCH_ENTRY_LENGTH     = 0,  /* u32: bytes of the message in the content */
    QBATCH_ENTRY_HASH       = 4,  /* u32: low half of XXH3-64 of those bytes */
    QBATCH_ENTRY_TAGS       = 8,  /* u64: bit i: tag i of the dictionary */
    QBATCH_ENTRY_ORDER_KEY  = 16, /* u32: hash of the order key, 0: none */
    QBATCH_ENTRY_TIME_DELTA = 20, /* u32: ms after the base time */
    QBATCH_ENTRY_COUNTER    = 24, /* u32: the id's counter */
    QBATCH_ENTRY_FLAGS      = 28, /* u32: 0 */
    QBATCH_ENTRY_SIZE       = 32,

    QBATCH_KEY_HASH         = 8,  /* u64 */
    QBATCH_KEY_SIZE         = 16,

    QBATCH_MESSAGE_HEAD     = 4,  /* property count, property bytes */
    QBATCH_PROPERTY_HEAD    = 4,  /* key length, value length */
};
/* clang-format on */

#define QBATCH_MAGIC_VALUE 0x30544251u /* "QBT0" */

enum {
    QBATCH_VERSION_VALUE = 0,
    QBATCH_RECORD_KIND_BATCH = 1,

    /* Limits; each has its own error text. */
    QBATCH_MESSAGES_MAX = 10000,                /* in one batch */
    QBATCH_MESSAGE_BYTES_MAX = 4 * 1024 * 1024, /* body and properties */
    QBATCH_PROPERTIES_MAX = 64,
    QBATCH_PROPERTY_BYTES_MAX = 32 * 1024,
    QBATCH_TAGS_MAX = 10,       /* of one message, and one more that names its group */
    QBATCH_DICTIONARY_MAX = 64, /* tags of one batch */
    QBATCH_TAG_BYTES_MAX = 255, /* of one tag */
    QBATCH_KEYS_MAX = 8,        /* of one message */
    QBATCH_KEY_BYTES_MAX = 255, /* of one key or order key */
    QBATCH_CONTENT_BYTES_MAX = QBATCH_MESSAGE_BYTES_MAX + 64 * 1024,
    QBATCH_RATIO_MAX = 255, /* content : payload; LZ4 can do no more */
};

enum qbatch_codec {
    QBATCH_CODEC_NONE = 0,
    QBATCH_CODEC_LZ4 = 1, /* one LZ4 block */
};

#endif /* QBATCH_LAYOUT_H */
