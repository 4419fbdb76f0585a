/*
 * format/block.h: superblock, segment header and frame header as structs: encode, decode, check.
 *
 * Decoding checks hash, magic and version and answers what is wrong; whether the numbers fit the
 * place where they were read is for the caller, who knows the place.
 *
 * Thread: any. Blocking: never. Memory: the caller's. Pure functions.
 */
#ifndef QL_FORMAT_BLOCK_H
#define QL_FORMAT_BLOCK_H

#include <qlog/types.h>

#include "format/layout.h"

/* Why bytes are not what was looked for. */
enum ql_block_state {
    QL_BLOCK_GOOD,
    QL_BLOCK_ZERO,    /* nothing but zeros */
    QL_BLOCK_FOREIGN, /* another magic, or the hash is wrong */
    QL_BLOCK_NEWER,   /* hash and magic right, version unknown */
};

struct ql_super_log {
    char name[QL_LOG_NAME_MAX];
    uint64_t durable;
    uint64_t end;
    uint64_t chain;
    uint64_t incarnation;
    uint64_t first;
    uint64_t zeroed;
    uint64_t replay;
};

struct ql_super {
    bool clean;
    uint8_t log_count;
    uint8_t store_id[16];
    uint64_t sequence;
    uint64_t generation;
    uint64_t created_ms;
    uint64_t written_ms;
    uint32_t sessions;
    uint32_t pulls;
    uint64_t producers;
    struct ql_super_log logs[QL_LOGS_MAX];
};

void ql_super_encode(const struct ql_super *super, uint8_t block[QL_SUPER_SIZE]);
enum ql_block_state ql_super_decode(const uint8_t block[QL_SUPER_SIZE], struct ql_super *ret_super);

struct ql_segment_header {
    bool in_use;
    uint8_t store_id[16];
    char log_name[QL_LOG_NAME_MAX];
    uint64_t incarnation;
    uint64_t base;
    uint64_t file_size;
    uint64_t generation;
    uint64_t created_ms;
    uint64_t chain;
};

void ql_segment_header_encode(const struct ql_segment_header *header, uint8_t block[QL_BLOCK]);
enum ql_block_state ql_segment_header_decode(
    const uint8_t block[QL_BLOCK], struct ql_segment_header *ret_header);

struct ql_frame {
    enum ql_frame_kind kind;
    bool last;
    uint64_t position;
    uint64_t incarnation;
    uint64_t epoch;
    uint64_t generation;
    uint32_t body_length;
    uint32_t records_length;
    uint32_t record_count;
    uint64_t wall_ms;
    uint64_t durable;
    uint64_t previous;
    uint64_t records_hash;
    uint64_t hash; /* of the header itself; set by encode and decode */
};

/* Bytes that a frame with this body takes in the log. */
static inline uint64_t
ql_frame_size(uint32_t body_length)
{
    return ((uint64_t)QL_FRAME_HEADER_SIZE + body_length + QL_BLOCK - 1) &
           ~(uint64_t)(QL_BLOCK - 1);
}

void ql_frame_encode(struct ql_frame *frame, uint8_t header[QL_FRAME_HEADER_SIZE]);
enum ql_block_state ql_frame_decode(
    const uint8_t header[QL_FRAME_HEADER_SIZE], struct ql_frame *ret_frame);

/* For the kinds of blocks above and others: hash at 0, magic at 8. */
enum ql_block_state ql_block_check(
    const uint8_t *block, size_t size, uint32_t magic, unsigned version);

uint64_t ql_hash(const void *data, size_t size);

#endif /* QL_FORMAT_BLOCK_H */
