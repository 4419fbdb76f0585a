/*
 * format/record.h: the records of a frame: encode, decode, check, describe.
 *
 * Decoders take bytes from strangers: every length is checked against what is left, by
 * subtraction. Encoders write into memory whose size the caller asked for first.
 *
 * Thread: any. Blocking: never. Memory: the caller's; decoded names are views. Pure functions.
 * Format: docs/format.md, "Records".
 */
#ifndef QL_FORMAT_RECORD_H
#define QL_FORMAT_RECORD_H

#include <qbase/bytes.h>
#include <qbatch/batch.h>
#include <qlog/store.h>

#include "format/action.h"
#include "format/layout.h"
#include "format/record_list.h"

/* One record of a frame. */
struct ql_record {
    unsigned kind;
    struct q_bytes bytes;   /* with the head */
    const uint8_t *payload; /* of a batch: padded payload in the same frame; else NULL */
    uint32_t payload_size;  /* padded */
};

/* Walks records and payloads of one frame's body together. */
struct ql_record_walk {
    struct q_bytes records;
    struct q_bytes payloads;
};

/*
 * Q_OK, Q_END (both are used up), Q_E_CORRUPT (lengths do not add up). Batches are opened trusted:
 * the frame's hash over the records is checked before.
 */
Q_MUST_CHECK enum q_err ql_record_next(struct ql_record_walk *walk, struct ql_record *ret_record);

/* "BATCH"; "UNKNOWN" for others. */
const char *ql_record_name(unsigned kind);
/* One line of text, or one JSON object, without the line's end. False: the record does not decode. */
bool ql_record_describe(const struct ql_record *record, bool json, char *out, size_t out_size);

/*
 * --- SUBJECT ---
 * Says all there is to say about a subject, whoever says it: its making, the message log once in
 * each segment that uses it, the action log again before its last record there is dropped.
 */
struct ql_subject_record {
    uint64_t next_sequence; /* when the record was written; a subject's never goes back */
    uint32_t subject_id;
    uint8_t mode; /* enum qlog_mode; 0: the store's default */
    struct q_bytes name;
};

/*
 * --- PRODUCER ---
 * The last of a producer's requests that are stored, and where. What is behind `frame` in the message
 * log tells the same of those that came later. In the dispatch log of a delay store: of its delay log,
 * and `from` and `to` are the two halves of the first delay sequence.
 */
enum {
    QL_PRODUCER_RESULTS_MAX = 64
};

struct ql_producer_result {
    uint64_t sequence;
    uint64_t frame; /* position in the message log */
    uint32_t from;  /* its envelopes lie in [from, to) of the frame */
    uint32_t to;
    uint32_t digest;
    uint32_t batch_count;
};

struct ql_producer_record {
    uint8_t id[16];
    uint64_t seen_ms;
    uint32_t result_count;  /* 1 … QL_PRODUCER_RESULTS_MAX, by sequence */
    const uint8_t *results; /* encoded; see ql_producer_result_at() */
};

/* Sizes (multiples of 8) and encoders. */
uint32_t ql_subject_record_size(const struct ql_subject_record *record);
void ql_subject_record_encode(const struct ql_subject_record *record, uint8_t *out);
uint32_t ql_producer_record_size(uint32_t result_count);
void ql_producer_record_encode(
    const struct ql_producer_record *record,
    const struct ql_producer_result *results,
    uint8_t *out);
/* A record of a program's own bytes: head, u32 length, bytes, padding. */
uint32_t ql_bytes_record_size(size_t size);
void ql_bytes_record_encode(struct q_bytes bytes, uint8_t *out);

/* Q_OK or Q_E_CORRUPT. */
Q_MUST_CHECK enum q_err ql_subject_record_decode(
    struct q_bytes bytes, struct ql_subject_record *ret_record);
Q_MUST_CHECK enum q_err ql_producer_record_decode(
    struct q_bytes bytes, struct ql_producer_record *ret_record);
Q_MUST_CHECK enum q_err ql_bytes_record_decode(struct q_bytes bytes, struct q_bytes *ret_bytes);

struct ql_producer_result ql_producer_result_at(
    const struct ql_producer_record *record, uint32_t index);

#endif /* QL_FORMAT_RECORD_H */
