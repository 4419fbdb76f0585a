/*
 * format/coder.h: how records are read and written: bytes in, bytes out.
 *
 * A reader that ran over stays at its end and says so once, when it is checked. A writer's memory
 * has the record's size. For record_*.c only.
 *
 * Thread: any. Pure functions.
 */
#ifndef QL_FORMAT_CODER_H
#define QL_FORMAT_CODER_H

#include <string.h>

#include <qbase/assert.h>

#include "format/record.h"

struct reader {
    struct q_bytes left;
    bool short_;
};

struct writer {
    uint8_t *at;
    uint8_t *end;
};

static inline const uint8_t *
take(struct reader *reader, size_t size)
{
    if (size > reader->left.size) {
        reader->short_ = true;
        return NULL;
    }
    const uint8_t *data = reader->left.data;
    reader->left.data += size;
    reader->left.size -= size;
    return data;
}

static inline uint8_t
take_u8(struct reader *reader)
{
    const uint8_t *data = take(reader, 1);
    return data == NULL ? 0 : data[0];
}

static inline uint16_t
take_u16(struct reader *reader)
{
    const uint8_t *data = take(reader, 2);
    return data == NULL ? 0 : q_load_le16(data);
}

static inline uint32_t
take_u32(struct reader *reader)
{
    const uint8_t *data = take(reader, 4);
    return data == NULL ? 0 : q_load_le32(data);
}

static inline uint64_t
take_u64(struct reader *reader)
{
    const uint8_t *data = take(reader, 8);
    return data == NULL ? 0 : q_load_le64(data);
}

/* A text of up to 255 bytes behind its length. */
static inline struct q_bytes
take_text(struct reader *reader)
{
    uint8_t size = take_u8(reader);
    const uint8_t *data = take(reader, size);
    return data == NULL ? q_bytes_from(NULL, 0) : q_bytes_from(data, size);
}

static inline struct reader
reader_of(struct q_bytes record)
{
    Q_ASSERT(record.size >= QL_RECORD_HEAD_SIZE);
    return (struct reader){
        .left = q_bytes_from(record.data + QL_RECORD_HEAD_SIZE, record.size - QL_RECORD_HEAD_SIZE),
    };
}

static inline enum q_err
reader_check(const struct reader *reader, const char *what)
{
    if (!reader->short_) return Q_OK;
    return Q_FAIL(Q_E_CORRUPT, .what = what);
}

static inline void
put(struct writer *writer, const void *data, size_t size)
{
    Q_ASSERT(size <= (size_t)(writer->end - writer->at));
    if (size > 0) memcpy(writer->at, data, size);
    writer->at += size;
}

static inline void
put_u8(struct writer *writer, uint8_t value)
{
    put(writer, &value, 1);
}

static inline void
put_u16(struct writer *writer, uint16_t value)
{
    put(writer, &value, 2);
}

static inline void
put_u32(struct writer *writer, uint32_t value)
{
    put(writer, &value, 4);
}

static inline void
put_u64(struct writer *writer, uint64_t value)
{
    put(writer, &value, 8);
}

static inline void
put_text(struct writer *writer, struct q_bytes text)
{
    Q_ASSERT(text.size <= UINT8_MAX);
    put_u8(writer, (uint8_t)text.size);
    put(writer, text.data, text.size);
}

static inline void
put_uses(struct writer *writer, struct ql_uses uses)
{
    put_u8(writer, uses.failed);
    put_u8(writer, uses.timed_out);
    put_u8(writer, uses.died);
}

/* Size of a record whose contents take `size` bytes. */
static inline uint32_t
record_size(size_t size)
{
    return (uint32_t)q_align_up(QL_RECORD_HEAD_SIZE + size, 8);
}

static inline struct writer
writer_of(uint8_t *out, enum ql_record_kind kind, uint32_t size)
{
    /* Encoders write every byte but the padding, which is shorter than this. */
    q_store_le64(out + size - 8, 0);
    q_store_le16(out + QL_RECORD_KIND, (uint16_t)kind);
    q_store_le16(out + QL_RECORD_FLAGS, 0);
    q_store_le32(out + QL_RECORD_LENGTH, size);
    return (struct writer){ .at = out + QL_RECORD_HEAD_SIZE, .end = out + size };
}

#endif /* QL_FORMAT_CODER_H */
