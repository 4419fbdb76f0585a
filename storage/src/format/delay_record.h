/*
 * format/delay_record.h: the records of a delay store: encode, decode, check.
 *
 * Thread: any. Blocking: never. Memory: the caller's; decoded names are views. Pure functions.
 * Format: docs/format.md, "Records".
 */
#ifndef QL_FORMAT_DELAY_RECORD_H
#define QL_FORMAT_DELAY_RECORD_H

#include <qbase/bytes.h>
#include <qbase/err.h>

#include "format/layout.h"
#include "format/record_list.h"

enum {
    QL_MARKS_MESSAGES = 65536, /* of one MARKS record: a page */
    QL_MARKS_WORDS = QL_MARKS_MESSAGES / 64,
    QL_DISPATCH_ITEMS_MAX = 1024,
    QL_DISPATCH_ITEM_SIZE = 56,
};

/* --- REPLACES --- the batch behind it in the same frame takes the place of this message. */
struct ql_replaces_record {
    uint64_t sequence;
};

/* --- DELAYED --- */
struct ql_delayed_record {
    uint64_t next_sequence; /* none from here on was given when it was written */
    uint64_t done_below;    /* all messages below are done */
};

/* --- TARGET --- */
struct ql_target_record {
    uint32_t target_id;
    uint64_t next_request;
    uint8_t producer_id[16];
    struct q_bytes name; /* of the broker group */
};

/* Messages next to each other in one batch, and where that lies in the delay log. */
struct ql_dispatch_item {
    uint64_t due_ms;
    uint64_t sequence; /* of the first */
    uint64_t frame;    /* position */
    uint32_t count;
    uint32_t first; /* index in the batch */
    uint32_t envelope_at;
    uint32_t envelope_size;
    uint32_t payload_at; /* both from the frame's position */
    uint32_t payload_size;
    uint32_t subject_id;
};

/* --- DISPATCH --- */
struct ql_dispatch_record {
    uint32_t target_id;
    uint32_t item_count;
    uint64_t request;
    const uint8_t *items; /* encoded; see ql_dispatch_item_at() */
};

/* --- DISPATCHED --- a request is over. */
struct ql_dispatched_record {
    uint32_t target_id;
    int32_t code; /* Q_OK: it is stored there. Else it is taken back: its messages wait again */
    uint64_t request;
};

/* --- ASIDE --- a message waits, and is not sent: a broker group refused it for good. */
struct ql_aside_record {
    uint64_t sequence;
    uint32_t target_id;
    int32_t code; /* an answer of enum q_err, not Q_OK */
};

/* --- WITHDRAWN --- */
struct ql_withdrawn_record {
    uint64_t sequence;
};

/* --- MARKS --- bit i: message `first` + i is done, or named by a DISPATCH record that is stated. */
struct ql_marks_record {
    uint64_t first; /* a multiple of QL_MARKS_MESSAGES */
    const uint8_t *bits;
};

/* --- DONE --- what MARKS would say of whole pages in which every bit is set. */
struct ql_done_record {
    uint64_t first; /* both are multiples of QL_MARKS_MESSAGES */
    uint64_t end;
};

/* Sizes (multiples of 8) and encoders. */
enum {
    QL_REPLACES_RECORD_SIZE = 16,
    QL_DELAYED_RECORD_SIZE = 24,
    QL_DISPATCHED_RECORD_SIZE = 24,
    QL_WITHDRAWN_RECORD_SIZE = 16,
    QL_ASIDE_RECORD_SIZE = 24,
    QL_DONE_RECORD_SIZE = 24,
    QL_MARKS_RECORD_SIZE = 16 + QL_MARKS_MESSAGES / 8,
};
void ql_replaces_record_encode(const struct ql_replaces_record *record, uint8_t *out);
void ql_delayed_record_encode(const struct ql_delayed_record *record, uint8_t *out);
uint32_t ql_target_record_size(const struct ql_target_record *record);
void ql_target_record_encode(const struct ql_target_record *record, uint8_t *out);
uint32_t ql_dispatch_record_size(uint32_t item_count);
void ql_dispatch_record_encode(
    const struct ql_dispatch_record *record, const struct ql_dispatch_item *items, uint8_t *out);
void ql_dispatched_record_encode(const struct ql_dispatched_record *record, uint8_t *out);
void ql_withdrawn_record_encode(const struct ql_withdrawn_record *record, uint8_t *out);
void ql_aside_record_encode(const struct ql_aside_record *record, uint8_t *out);
void ql_done_record_encode(const struct ql_done_record *record, uint8_t *out);
void ql_marks_record_encode(uint64_t first, const uint64_t bits[QL_MARKS_WORDS], uint8_t *out);

/* Q_OK or Q_E_CORRUPT. */
Q_MUST_CHECK enum q_err ql_replaces_record_decode(
    struct q_bytes bytes, struct ql_replaces_record *ret_record);
Q_MUST_CHECK enum q_err ql_delayed_record_decode(
    struct q_bytes bytes, struct ql_delayed_record *ret_record);
Q_MUST_CHECK enum q_err ql_target_record_decode(
    struct q_bytes bytes, struct ql_target_record *ret_record);
Q_MUST_CHECK enum q_err ql_dispatch_record_decode(
    struct q_bytes bytes, struct ql_dispatch_record *ret_record);
Q_MUST_CHECK enum q_err ql_dispatched_record_decode(
    struct q_bytes bytes, struct ql_dispatched_record *ret_record);
Q_MUST_CHECK enum q_err ql_withdrawn_record_decode(
    struct q_bytes bytes, struct ql_withdrawn_record *ret_record);
Q_MUST_CHECK enum q_err ql_aside_record_decode(
    struct q_bytes bytes, struct ql_aside_record *ret_record);
Q_MUST_CHECK enum q_err ql_done_record_decode(
    struct q_bytes bytes, struct ql_done_record *ret_record);
Q_MUST_CHECK enum q_err ql_marks_record_decode(
    struct q_bytes bytes, struct ql_marks_record *ret_record);

struct ql_dispatch_item ql_dispatch_item_at(
    const struct ql_dispatch_record *record, uint32_t index);

#endif /* QL_FORMAT_DELAY_RECORD_H */
