/*
 * qbatch/batch.h: check a batch, walk over its messages, cut messages out of it.
 *
 * Bytes come from strangers. qbatch_open() checks the envelope fully (lengths by subtraction,
 * counts, limits, zero padding, hash) and nothing after it reads outside; the payload is checked by
 * qbatch_check_payload() (one XXH3 over the stored bytes) or message by message while walking.
 *
 * Thread:   any; all functions are pure but qbatch_content_*.
 * Blocking: never.
 * Memory:   views into the caller's bytes.
 * Failure:  Q_E_CORRUPT, Q_E_VERSION, with a fault that names the field and the byte.
 * Format:   qbatch/layout.h.
 */
#ifndef QBATCH_BATCH_H
#define QBATCH_BATCH_H

#include <qbase/bytes.h>
#include <qbase/err.h>
#include <qbatch/id.h>
#include <qbatch/layout.h>

/* A checked envelope. */
struct qbatch {
    const uint8_t *envelope;
    uint32_t envelope_length;
    uint32_t payload_length;        /* stored, without padding */
    uint32_t payload_padded_length; /* multiple of 8 */
    uint32_t content_length;
    uint32_t message_count;
    uint32_t key_count;
    uint32_t tag_count;
    enum qbatch_codec codec;
    uint64_t payload_hash;
    /* Broker's prefix; 0 before it is stored. */
    uint32_t subject_id;
    uint64_t first_sequence;
    uint64_t store_time_ms;
    /* Producer's. */
    uint64_t base_time_ms;
    uint8_t producer_id[16];
    uint64_t request_sequence;
    uint32_t request_index;
    uint32_t request_count;
    bool delayed;    /* for a delay store, which keeps it until */
    uint64_t due_ms; /* then */
    uint64_t origin; /* of the ids of its messages: its producer's, also in what was forwarded */
    /* Private: where the parts of the envelope begin. */
    uint32_t keys_at;
    uint32_t tags_at;
};

/*
 * The envelope that begins at `bytes`, which may be longer. Checks everything in it but the
 * broker's prefix.
 */
Q_MUST_CHECK enum q_err qbatch_open(struct q_bytes bytes, struct qbatch *ret_batch);
/*
 * The same without the hash over the envelope and the check of each entry: for bytes whose frame
 * hash was checked just before. Lengths and counts are checked all the same.
 */
Q_MUST_CHECK enum q_err qbatch_open_trusted(struct q_bytes bytes, struct qbatch *ret_batch);
/* `payload` holds at least payload_padded_length bytes. Checks hash and padding. */
Q_MUST_CHECK enum q_err qbatch_check_payload(const struct qbatch *batch, const uint8_t *payload);

/* What the envelope tells about message `index` (< message_count). */
struct qbatch_entry {
    uint32_t length;
    uint32_t hash;
    uint64_t tags;
    uint32_t order_key_hash;
    uint64_t time_ms;
    uint32_t counter;
};

void qbatch_entry_at(const struct qbatch *batch, uint32_t index, struct qbatch_entry *ret_entry);
/* Whether any of its messages has an order key. */
bool qbatch_is_ordered(const struct qbatch *batch);
struct qbatch_id qbatch_id_at(const struct qbatch *batch, uint32_t index);
/* Tag `index` (< tag_count) of the dictionary. Linear; dictionaries are small. */
struct q_bytes qbatch_tag_at(const struct qbatch *batch, uint32_t index);

enum qbatch_tag_mode {
    QBATCH_TAGS_ANY, /* at least one */
    QBATCH_TAGS_ALL,
};

/*
 * A filter over tags, translated once per batch into a bitmap test. No tags: everything passes.
 */
struct qbatch_filter {
    struct q_bytes tags[QBATCH_TAGS_MAX];
    uint32_t tag_count;
    enum qbatch_tag_mode mode;
};

struct qbatch_mask {
    uint64_t bits;
    enum qbatch_tag_mode mode;
    bool everything; /* no filter */
    bool nothing;    /* no message of this batch can pass */
};

struct qbatch_mask qbatch_filter_mask(
    const struct qbatch *batch, const struct qbatch_filter *filter);

static inline bool
qbatch_mask_passes(const struct qbatch_mask *mask, uint64_t tags)
{
    if (mask->everything) return true;
    if (mask->nothing) return false;
    return mask->mode == QBATCH_TAGS_ANY ? (tags & mask->bits) != 0
                                         : (tags & mask->bits) == mask->bits;
}

/*
 * Tags of the dictionary, a bit each, that name another group than this one: a message with one of
 * them is for that group alone. Such a tag is QBATCH_ONLY and the group's name.
 */
uint64_t qbatch_others(const struct qbatch *batch, struct q_bytes group);

/*
 * The content of a batch: the payload itself, or what it decompresses to.
 *
 * Q_OK        `*ret_content` has content_length bytes: a view of `payload`, or of `scratch`.
 * Q_E_CORRUPT does not decompress to content_length.
 * `scratch` has at least content_length bytes when the codec is not NONE; else it may be NULL.
 */
Q_MUST_CHECK enum q_err qbatch_content(
    const struct qbatch *batch,
    const uint8_t *payload,
    uint8_t *scratch,
    struct q_bytes *ret_content);

/* One message while walking. Views into content and envelope. */
struct qbatch_view {
    uint32_t index;
    struct qbatch_entry entry;
    struct qbatch_id id;
    struct q_bytes raw; /* as stored: properties and body */
    struct q_bytes body;
    uint32_t property_count;
    struct q_bytes properties; /* encoded; see qbatch_property_next() */
};

struct qbatch_walk {
    const struct qbatch *batch;
    struct q_bytes content;
    uint32_t index;
    uint32_t at;
};

void qbatch_walk_start(
    struct qbatch_walk *walk, const struct qbatch *batch, struct q_bytes content);
/*
 * Next message.
 *
 * Q_OK, Q_END after the last, Q_E_CORRUPT: lengths disagree, or (`check`) the message's hash does.
 */
Q_MUST_CHECK enum q_err qbatch_walk_next(
    struct qbatch_walk *walk, bool check, struct qbatch_view *ret_view);

/* `*at` starts as view->properties and shrinks. Q_OK or Q_END (lengths were checked by the walk). */
Q_MUST_CHECK enum q_err qbatch_property_next(
    struct q_bytes *at, struct q_bytes *ret_key, struct q_bytes *ret_value);
/* Q_OK or Q_NOT_FOUND. */
Q_MUST_CHECK enum q_err qbatch_property_find(
    const struct qbatch_view *view, struct q_bytes key, struct q_bytes *ret_value);

/*
 * Names of properties that carry what a message has beside properties of its own. They are written
 * by the builder and count as properties; a user's property must not begin with '%'.
 */
#define QBATCH_ONLY               '%'
#define QBATCH_PROPERTY_KEY       "%key"
#define QBATCH_PROPERTY_ORDER_KEY "%order-key"

/* Fill the broker's prefix of a batch that is about to be stored. */
void qbatch_set_prefix(
    uint8_t *envelope, uint32_t subject_id, uint64_t first_sequence, uint64_t store_time_ms);

/*
 * A set of batches as one request, one frame or one answer holds it: all envelopes, then all
 * payloads. Walks both at once; checks that neither is left over.
 */
struct qbatch_set_walk {
    struct q_bytes envelopes;
    struct q_bytes payloads;
};

/* Q_OK: `*ret_batch` opened (fully checked unless `trusted`), `*ret_payload` its padded payload,
 * which lies within the set but was not hashed: that is qbatch_check_payload().
 * Q_END: both parts are used up. Q_E_CORRUPT: they disagree. */
Q_MUST_CHECK enum q_err qbatch_set_next(
    struct qbatch_set_walk *walk,
    bool trusted,
    struct qbatch *ret_batch,
    const uint8_t **ret_payload);

#endif /* QBATCH_BATCH_H */
