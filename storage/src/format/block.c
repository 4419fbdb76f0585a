#include "format/block.h"

#include <string.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>
#include <qbatch/hash.h>

uint64_t
ql_hash(const void *data, size_t size)
{
    return qbatch_hash(q_bytes_from(data, size));
}

/* Hash at 0, magic at 8 and version at 12 are the same in all kinds. */
enum ql_block_state
ql_block_check(const uint8_t *block, size_t size, uint32_t magic, unsigned version)
{
    if (q_load_le32(block + 8) != magic)
        return q_is_zero(block, size) ? QL_BLOCK_ZERO : QL_BLOCK_FOREIGN;
    if (q_load_le64(block) != ql_hash(block + 8, size - 8)) return QL_BLOCK_FOREIGN;
    if (version > QL_FORMAT_VERSION) return QL_BLOCK_NEWER;
    return QL_BLOCK_GOOD;
}

void
ql_super_encode(const struct ql_super *super, uint8_t block[QL_SUPER_SIZE])
{
    Q_ASSERT(super->log_count <= QL_LOGS_MAX);
    memset(block, 0, QL_SUPER_SIZE);
    q_store_le32(block + QL_SUPER_MAGIC_AT, QL_SUPER_MAGIC);
    q_store_le16(block + QL_SUPER_VERSION, QL_FORMAT_VERSION);
    block[QL_SUPER_CLEAN] = super->clean;
    block[QL_SUPER_LOG_COUNT] = super->log_count;
    memcpy(block + QL_SUPER_STORE_ID, super->store_id, sizeof(super->store_id));
    q_store_le64(block + QL_SUPER_SEQUENCE, super->sequence);
    q_store_le64(block + QL_SUPER_GENERATION, super->generation);
    q_store_le64(block + QL_SUPER_CREATED_MS, super->created_ms);
    q_store_le64(block + QL_SUPER_WRITTEN_MS, super->written_ms);
    for (unsigned i = 0; i < super->log_count; i++) {
        const struct ql_super_log *log = &super->logs[i];
        uint8_t *at = block + QL_SUPER_LOGS + i * QL_SUPER_LOG_SIZE;
        memcpy(at + QL_SUPER_LOG_NAME, log->name, QL_LOG_NAME_MAX);
        q_store_le64(at + QL_SUPER_LOG_DURABLE, log->durable);
        q_store_le64(at + QL_SUPER_LOG_END, log->end);
        q_store_le64(at + QL_SUPER_LOG_CHAIN, log->chain);
        q_store_le64(at + QL_SUPER_LOG_INCARNATION, log->incarnation);
        q_store_le64(at + QL_SUPER_LOG_FIRST, log->first);
        q_store_le64(at + QL_SUPER_LOG_ZEROED, log->zeroed);
        q_store_le64(block + QL_SUPER_REPLAY + i * 8u, log->replay);
    }
    q_store_le32(block + QL_SUPER_SESSIONS, super->sessions);
    q_store_le32(block + QL_SUPER_PULLS, super->pulls);
    q_store_le64(block + QL_SUPER_PRODUCERS, super->producers);
    q_store_le64(block + QL_SUPER_HASH, ql_hash(block + 8, QL_SUPER_SIZE - 8));
}

enum ql_block_state
ql_super_decode(const uint8_t block[QL_SUPER_SIZE], struct ql_super *ret_super)
{
    enum ql_block_state state =
        ql_block_check(block, QL_SUPER_SIZE, QL_SUPER_MAGIC, q_load_le16(block + QL_SUPER_VERSION));
    if (state != QL_BLOCK_GOOD) return state;
    if (block[QL_SUPER_LOG_COUNT] > QL_LOGS_MAX) return QL_BLOCK_FOREIGN;
    struct ql_super super = {
        .clean = block[QL_SUPER_CLEAN] == 1,
        .log_count = block[QL_SUPER_LOG_COUNT],
        .sequence = q_load_le64(block + QL_SUPER_SEQUENCE),
        .generation = q_load_le64(block + QL_SUPER_GENERATION),
        .created_ms = q_load_le64(block + QL_SUPER_CREATED_MS),
        .written_ms = q_load_le64(block + QL_SUPER_WRITTEN_MS),
        .sessions = q_load_le32(block + QL_SUPER_SESSIONS),
        .pulls = q_load_le32(block + QL_SUPER_PULLS),
        .producers = q_load_le64(block + QL_SUPER_PRODUCERS),
    };
    memcpy(super.store_id, block + QL_SUPER_STORE_ID, sizeof(super.store_id));
    for (unsigned i = 0; i < super.log_count; i++) {
        struct ql_super_log *log = &super.logs[i];
        const uint8_t *at = block + QL_SUPER_LOGS + i * QL_SUPER_LOG_SIZE;
        memcpy(log->name, at + QL_SUPER_LOG_NAME, QL_LOG_NAME_MAX);
        if (log->name[QL_LOG_NAME_MAX - 1] != '\0') return QL_BLOCK_FOREIGN;
        log->durable = q_load_le64(at + QL_SUPER_LOG_DURABLE);
        log->end = q_load_le64(at + QL_SUPER_LOG_END);
        log->chain = q_load_le64(at + QL_SUPER_LOG_CHAIN);
        log->incarnation = q_load_le64(at + QL_SUPER_LOG_INCARNATION);
        log->first = q_load_le64(at + QL_SUPER_LOG_FIRST);
        log->zeroed = q_load_le64(at + QL_SUPER_LOG_ZEROED);
        log->replay = q_load_le64(block + QL_SUPER_REPLAY + i * 8u);
    }
    *ret_super = super;
    return QL_BLOCK_GOOD;
}

void
ql_segment_header_encode(const struct ql_segment_header *header, uint8_t block[QL_BLOCK])
{
    memset(block, 0, QL_BLOCK);
    q_store_le32(block + QL_SEGMENT_MAGIC_AT, QL_SEGMENT_MAGIC);
    q_store_le16(block + QL_SEGMENT_VERSION, QL_FORMAT_VERSION);
    block[QL_SEGMENT_STATE] = header->in_use;
    memcpy(block + QL_SEGMENT_STORE_ID, header->store_id, sizeof(header->store_id));
    memcpy(block + QL_SEGMENT_LOG_NAME, header->log_name, QL_LOG_NAME_MAX);
    q_store_le64(block + QL_SEGMENT_INCARNATION, header->incarnation);
    q_store_le64(block + QL_SEGMENT_BASE, header->base);
    q_store_le64(block + QL_SEGMENT_FILE_SIZE, header->file_size);
    q_store_le64(block + QL_SEGMENT_GENERATION, header->generation);
    q_store_le64(block + QL_SEGMENT_CREATED_MS, header->created_ms);
    q_store_le64(block + QL_SEGMENT_CHAIN, header->chain);
    q_store_le64(block + QL_SEGMENT_HASH, ql_hash(block + 8, QL_BLOCK - 8));
}

enum ql_block_state
ql_segment_header_decode(const uint8_t block[QL_BLOCK], struct ql_segment_header *ret_header)
{
    enum ql_block_state state =
        ql_block_check(block, QL_BLOCK, QL_SEGMENT_MAGIC, q_load_le16(block + QL_SEGMENT_VERSION));
    if (state != QL_BLOCK_GOOD) return state;
    struct ql_segment_header header = {
        .in_use = block[QL_SEGMENT_STATE] == 1,
        .incarnation = q_load_le64(block + QL_SEGMENT_INCARNATION),
        .base = q_load_le64(block + QL_SEGMENT_BASE),
        .file_size = q_load_le64(block + QL_SEGMENT_FILE_SIZE),
        .generation = q_load_le64(block + QL_SEGMENT_GENERATION),
        .created_ms = q_load_le64(block + QL_SEGMENT_CREATED_MS),
        .chain = q_load_le64(block + QL_SEGMENT_CHAIN),
    };
    memcpy(header.store_id, block + QL_SEGMENT_STORE_ID, sizeof(header.store_id));
    memcpy(header.log_name, block + QL_SEGMENT_LOG_NAME, QL_LOG_NAME_MAX);
    if (header.log_name[QL_LOG_NAME_MAX - 1] != '\0') return QL_BLOCK_FOREIGN;
    if (header.base % QL_BLOCK != 0 || header.file_size % QL_BLOCK != 0) return QL_BLOCK_FOREIGN;
    *ret_header = header;
    return QL_BLOCK_GOOD;
}

void
ql_frame_encode(struct ql_frame *frame, uint8_t header[QL_FRAME_HEADER_SIZE])
{
    Q_ASSERT(frame->position % QL_BLOCK == 0);
    Q_ASSERT(frame->records_length <= frame->body_length);
    memset(header, 0, QL_FRAME_HEADER_SIZE);
    q_store_le32(header + QL_FRAME_MAGIC_AT, QL_FRAME_MAGIC);
    header[QL_FRAME_VERSION] = QL_FORMAT_VERSION;
    header[QL_FRAME_KIND] = (uint8_t)frame->kind;
    q_store_le16(header + QL_FRAME_FLAGS, frame->last ? QL_FRAME_FLAG_LAST : 0);
    q_store_le64(header + QL_FRAME_POSITION, frame->position);
    q_store_le64(header + QL_FRAME_INCARNATION, frame->incarnation);
    q_store_le64(header + QL_FRAME_EPOCH, frame->epoch);
    q_store_le64(header + QL_FRAME_GENERATION, frame->generation);
    q_store_le32(header + QL_FRAME_BODY_LENGTH, frame->body_length);
    q_store_le32(header + QL_FRAME_RECORDS_LENGTH, frame->records_length);
    q_store_le32(header + QL_FRAME_RECORD_COUNT, frame->record_count);
    q_store_le64(header + QL_FRAME_WALL_MS, frame->wall_ms);
    q_store_le64(header + QL_FRAME_DURABLE, frame->durable);
    q_store_le64(header + QL_FRAME_PREVIOUS, frame->previous);
    q_store_le64(header + QL_FRAME_RECORDS_HASH, frame->records_hash);
    frame->hash = ql_hash(header + 8, QL_FRAME_HEADER_SIZE - 8);
    q_store_le64(header + QL_FRAME_HASH, frame->hash);
}

enum ql_block_state
ql_frame_decode(const uint8_t header[QL_FRAME_HEADER_SIZE], struct ql_frame *ret_frame)
{
    enum ql_block_state state =
        ql_block_check(header, QL_FRAME_HEADER_SIZE, QL_FRAME_MAGIC, header[QL_FRAME_VERSION]);
    if (state != QL_BLOCK_GOOD) return state;
    struct ql_frame frame = {
        .kind = (enum ql_frame_kind)header[QL_FRAME_KIND],
        .last = (q_load_le16(header + QL_FRAME_FLAGS) & QL_FRAME_FLAG_LAST) != 0,
        .position = q_load_le64(header + QL_FRAME_POSITION),
        .incarnation = q_load_le64(header + QL_FRAME_INCARNATION),
        .epoch = q_load_le64(header + QL_FRAME_EPOCH),
        .generation = q_load_le64(header + QL_FRAME_GENERATION),
        .body_length = q_load_le32(header + QL_FRAME_BODY_LENGTH),
        .records_length = q_load_le32(header + QL_FRAME_RECORDS_LENGTH),
        .record_count = q_load_le32(header + QL_FRAME_RECORD_COUNT),
        .wall_ms = q_load_le64(header + QL_FRAME_WALL_MS),
        .durable = q_load_le64(header + QL_FRAME_DURABLE),
        .previous = q_load_le64(header + QL_FRAME_PREVIOUS),
        .records_hash = q_load_le64(header + QL_FRAME_RECORDS_HASH),
        .hash = q_load_le64(header + QL_FRAME_HASH),
    };
    if (frame.kind > QL_FRAME_SEAL) return QL_BLOCK_FOREIGN;
    if (frame.records_length > frame.body_length) return QL_BLOCK_FOREIGN;
    if (frame.position % QL_BLOCK != 0) return QL_BLOCK_FOREIGN;
    *ret_frame = frame;
    return QL_BLOCK_GOOD;
}
