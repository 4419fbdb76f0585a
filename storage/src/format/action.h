/*
 * format/action.h: the records of the action log: what groups and consumers did, and their state.
 *
 * Thread: any. Blocking: never. Memory: the caller's; decoded names and lists are views.
 * Format: docs/format.md, "Records".
 */
#ifndef QL_FORMAT_ACTION_H
#define QL_FORMAT_ACTION_H

#include <qbase/bytes.h>
#include <qbatch/batch.h>
#include <qlog/group.h>

#include "format/record_list.h"

/* How the attempts that a message has behind it ended. Each stops counting at 255. */
struct ql_uses {
    uint8_t failed; /* negative acks */
    uint8_t timed_out;
    uint8_t died; /* with their consumer */
};

/* The attempt that a hand-out is, from 1. */
static inline uint32_t
ql_uses_attempt(struct ql_uses uses)
{
    return 1u + uses.failed + uses.timed_out + uses.died;
}

/* Why a message below the cursor is in nobody's hands. Numbers are stored. */
enum ql_reason {
    QL_REASON_RETRY = 1,    /* it failed, and waits */
    QL_REASON_RELEASED = 2, /* its consumer died, left, or had no more time */
    QL_REASON_KEY = 3,      /* an earlier one of its order key is not done */
    QL_REASON_FILTER = 4,   /* who pulled does not take it, another member's filter does */
    QL_REASON_DYING = 5     /* no attempts are left, or it goes: it is about to be a dead letter */
};

/* Filters of a group by number. Filters that take a message: a bit for each. */
enum {
    QL_FILTER_BITS = QLOG_FILTERS_MAX
};

struct ql_filter_item {
    uint32_t slot;
    struct qbatch_filter filter;
};

/*
 * --- GROUP ---
 * Makes the group. Written again, followed by CONSUMER, HELD, PENDING and ERROR records, before the
 * segment with its last one is dropped: read together they are the whole state of a group that is
 * not known yet. A reader that knows the group from older records passes over all of them. What does
 * not fit into one append goes on with CURSOR.
 */
struct ql_group_record {
    uint32_t group_id;
    uint32_t subject_id;
    uint64_t cursor;
    uint64_t epoch;
    uint64_t dead;
    uint64_t expired;
    uint64_t skipped;
    bool broadcast;
    bool paused;
    struct qlog_group_settings settings; /* defaults filled in */
    struct q_bytes subject;
    struct q_bytes name;
    uint32_t filter_count;
    struct ql_filter_item filters[QLOG_FILTERS_MAX];
};

/* --- JOIN --- */
struct ql_join_record {
    uint32_t group_id;
    uint32_t consumer_id; /* ordinal within the group; new when unknown */
    uint64_t session;
    uint64_t next_pull_sequence; /* of a new consumer */
    uint8_t token[16];
    struct ql_filter_item filter; /* new when its slot is free */
    struct q_bytes name;
};

/* --- PULL --- what was handed out, in pull sequence order; what was passed over; the cursor. */
struct ql_pull_run {
    uint64_t sequence;
    uint32_t count;
    uint32_t key;   /* of all of them; 0: they have none */
    uint32_t bytes; /* about */
    uint16_t filters;
    struct ql_uses uses;
};

struct ql_pass {
    uint64_t sequence;
    uint32_t count;
    uint32_t key;
    uint16_t filters;
    uint8_t reason; /* QL_REASON_KEY or _FILTER */
};

struct ql_pull_record {
    uint32_t group_id;
    uint32_t consumer_id;
    uint64_t first_pull_sequence;
    uint64_t cursor;
    uint64_t until_ms; /* 0: no invisible time */
    uint64_t skipped;  /* messages that no filter takes */
    uint64_t expired;  /* that are not stored any more */
    bool once;
    uint32_t run_count;
    uint32_t pass_count;
    const uint8_t *runs;   /* encoded; see ql_pull_run_at() */
    const uint8_t *passes; /* see ql_pull_pass_at() */
};

/* --- ACK --- ranges are sorted and disjoint. */
struct ql_ack_record {
    uint32_t group_id;
    uint32_t consumer_id;
    uint32_t range_count;
    const uint8_t *ranges; /* encoded; see ql_ack_range_at() */
};

/* --- NACK --- */
struct ql_nack_record {
    struct ql_ack_record ack; /* which */
    uint64_t now_ms;
    uint64_t delay_ms; /* UINT64_MAX: by the table */
    struct q_bytes error;
};

/* --- RELEASE --- */
enum ql_release_reason {
    QL_RELEASE_DIED = 1,
    QL_RELEASE_LEFT = 2,
    QL_RELEASE_FORGOTTEN = 3
};

struct ql_release_record {
    uint32_t group_id;
    uint32_t consumer_id;
    uint8_t reason;
};

/* --- TIMEOUT --- what has no time left at `now_ms` goes back to the group. */
struct ql_timeout_record {
    uint32_t group_id;
    uint32_t consumer_id;
    uint64_t now_ms;
};

/* --- SEEK --- */
struct ql_seek_record {
    uint32_t group_id;
    uint64_t cursor;
};

/* --- SETTINGS --- */
struct ql_settings_record {
    uint32_t group_id;
    bool paused;
    struct qlog_group_settings settings;
};

/* --- DELETE --- the group's number may be given to another. */
struct ql_delete_record {
    uint32_t group_id;
};

/* --- UNFILTER --- a filter without members is forgotten. */
struct ql_unfilter_record {
    uint32_t group_id;
    uint32_t slot;
};

/* --- RESOLVE --- what became of messages that no consumer acknowledged. */
enum ql_verdict {
    QL_VERDICT_DEAD = 1,     /* pending ones that are dying: they are stored as dead letters */
    QL_VERDICT_EXPIRED = 2,  /* all that are held or pending: their segment went */
    QL_VERDICT_SKIPPED = 3,  /* all, whoever has them */
    QL_VERDICT_RESENT = 4,   /* the group was done with them: pending again, attempt 1 */
    QL_VERDICT_EXPIRING = 5, /* all that are held or pending: their segment is about to go */
};

struct ql_resolve_item {
    uint64_t first;
    uint64_t last;
    uint32_t key; /* of a RESENT one */
};

struct ql_resolve_record {
    uint32_t group_id;
    uint8_t verdict;
    uint64_t cursor; /* SKIPPED: it moves up to here */
    uint32_t item_count;
    const uint8_t *items; /* encoded; see ql_resolve_item_at() */
};

/* --- CONSUMER --- */
struct ql_consumer_record {
    uint32_t group_id;
    uint32_t consumer_id;
    uint64_t session;
    uint64_t next_pull_sequence;
    uint64_t released_below;
    uint8_t token[16];
    uint8_t filter; /* slot */
    struct q_bytes name;
};

/* --- HELD, PENDING --- ranges of a consumer's window, or of the group's pending set. */
struct ql_range_item {
    uint64_t pull_sequence;
    uint64_t sequence;
    uint64_t time_ms; /* HELD: when it has no time left; PENDING: not before */
    uint32_t count;
    uint32_t consumer_id;
    uint32_t key;
    uint32_t bytes; /* HELD */
    uint16_t filters;
    uint8_t reason; /* PENDING: enum ql_reason */
    struct ql_uses uses;
    bool expiring; /* PENDING: it is dying because its segment is about to go */
};

struct ql_ranges_record {
    uint32_t group_id;
    uint32_t item_count;
    const uint8_t *items; /* encoded; see ql_range_item_at() */
};

/* --- ERROR --- the last error of messages that are dying. */
struct ql_error_record {
    uint32_t group_id;
    uint64_t sequence; /* of the first */
    uint32_t count;
    uint32_t left; /* of them, that are still dying; 1 … count */
    struct q_bytes text;
};

/* --- CURSOR --- what is stated of a group is all that is not done below this sequence. */
struct ql_cursor_record {
    uint32_t group_id;
    uint64_t cursor;
};

/* Items of one record; longer lists take several. */
enum {
    QL_RANGE_ITEMS_MAX = 1000
};

/* Sizes (multiples of 8) and encoders. */
uint32_t ql_group_record_size(const struct ql_group_record *record);
void ql_group_record_encode(const struct ql_group_record *record, uint8_t *out);
uint32_t ql_join_record_size(const struct ql_join_record *record);
void ql_join_record_encode(const struct ql_join_record *record, uint8_t *out);
uint32_t ql_pull_record_size(uint32_t run_count, uint32_t pass_count);
void ql_pull_record_encode(
    const struct ql_pull_record *record,
    const struct ql_pull_run *runs,
    const struct ql_pass *passes,
    uint8_t *out);
uint32_t ql_ack_record_size(uint32_t range_count);
void ql_ack_record_encode(
    const struct ql_ack_record *record, const struct qlog_range *ranges, uint8_t *out);
uint32_t ql_nack_record_size(uint32_t range_count, size_t error_size);
void ql_nack_record_encode(
    const struct ql_nack_record *record, const struct qlog_range *ranges, uint8_t *out);
uint32_t ql_release_record_size(void);
void ql_release_record_encode(const struct ql_release_record *record, uint8_t *out);
uint32_t ql_timeout_record_size(void);
void ql_timeout_record_encode(const struct ql_timeout_record *record, uint8_t *out);
uint32_t ql_seek_record_size(void);
void ql_seek_record_encode(const struct ql_seek_record *record, uint8_t *out);
uint32_t ql_settings_record_size(const struct ql_settings_record *record);
void ql_settings_record_encode(const struct ql_settings_record *record, uint8_t *out);
uint32_t ql_delete_record_size(void);
void ql_delete_record_encode(const struct ql_delete_record *record, uint8_t *out);
uint32_t ql_unfilter_record_size(void);
void ql_unfilter_record_encode(const struct ql_unfilter_record *record, uint8_t *out);
uint32_t ql_resolve_record_size(uint32_t item_count);
void ql_resolve_record_encode(
    const struct ql_resolve_record *record, const struct ql_resolve_item *items, uint8_t *out);
uint32_t ql_consumer_record_size(const struct ql_consumer_record *record);
void ql_consumer_record_encode(const struct ql_consumer_record *record, uint8_t *out);
/* `kind`: QL_RECORD_HELD or QL_RECORD_PENDING. */
uint32_t ql_ranges_record_size(uint32_t item_count);
void ql_ranges_record_encode(
    enum ql_record_kind kind,
    const struct ql_ranges_record *record,
    const struct ql_range_item *items,
    uint8_t *out);
uint32_t ql_cursor_record_size(void);
void ql_cursor_record_encode(const struct ql_cursor_record *record, uint8_t *out);
uint32_t ql_error_record_size(const struct ql_error_record *record);
void ql_error_record_encode(const struct ql_error_record *record, uint8_t *out);

/* Q_OK or Q_E_CORRUPT. */
Q_MUST_CHECK enum q_err ql_group_record_decode(
    struct q_bytes bytes, struct ql_group_record *ret_record);
Q_MUST_CHECK enum q_err ql_join_record_decode(
    struct q_bytes bytes, struct ql_join_record *ret_record);
Q_MUST_CHECK enum q_err ql_pull_record_decode(
    struct q_bytes bytes, struct ql_pull_record *ret_record);
Q_MUST_CHECK enum q_err ql_ack_record_decode(
    struct q_bytes bytes, struct ql_ack_record *ret_record);
Q_MUST_CHECK enum q_err ql_nack_record_decode(
    struct q_bytes bytes, struct ql_nack_record *ret_record);
Q_MUST_CHECK enum q_err ql_release_record_decode(
    struct q_bytes bytes, struct ql_release_record *ret_record);
Q_MUST_CHECK enum q_err ql_timeout_record_decode(
    struct q_bytes bytes, struct ql_timeout_record *ret_record);
Q_MUST_CHECK enum q_err ql_seek_record_decode(
    struct q_bytes bytes, struct ql_seek_record *ret_record);
Q_MUST_CHECK enum q_err ql_settings_record_decode(
    struct q_bytes bytes, struct ql_settings_record *ret_record);
Q_MUST_CHECK enum q_err ql_delete_record_decode(
    struct q_bytes bytes, struct ql_delete_record *ret_record);
Q_MUST_CHECK enum q_err ql_unfilter_record_decode(
    struct q_bytes bytes, struct ql_unfilter_record *ret_record);
Q_MUST_CHECK enum q_err ql_resolve_record_decode(
    struct q_bytes bytes, struct ql_resolve_record *ret_record);
Q_MUST_CHECK enum q_err ql_consumer_record_decode(
    struct q_bytes bytes, struct ql_consumer_record *ret_record);
Q_MUST_CHECK enum q_err ql_ranges_record_decode(
    struct q_bytes bytes, struct ql_ranges_record *ret_record);
Q_MUST_CHECK enum q_err ql_cursor_record_decode(
    struct q_bytes bytes, struct ql_cursor_record *ret_record);
Q_MUST_CHECK enum q_err ql_error_record_decode(
    struct q_bytes bytes, struct ql_error_record *ret_record);

struct ql_pull_run ql_pull_run_at(const struct ql_pull_record *record, uint32_t index);
struct ql_pass ql_pull_pass_at(const struct ql_pull_record *record, uint32_t index);
struct qlog_range ql_ack_range_at(const struct ql_ack_record *record, uint32_t index);
struct ql_resolve_item ql_resolve_item_at(const struct ql_resolve_record *record, uint32_t index);
struct ql_range_item ql_range_item_at(const struct ql_ranges_record *record, uint32_t index);

#endif /* QL_FORMAT_ACTION_H */
