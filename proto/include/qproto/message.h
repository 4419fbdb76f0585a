/*
 * qproto/message.h: one message on the wire: 16-byte head, protobuf header, padding, payload.
 *
 *   00  u8   0x51 'Q'
 *   01  u8   version of the head: 0
 *   02  u16  operation
 *   04  u16  flags: 0
 *   06  i16  status: 0, or the number of an error (answers only)
 *   08  u32  header length: bytes of protobuf
 *   12  u32  payload start: from the first byte of the head; == size of the message when no payload
 *
 * The payload start is congruent to 4 modulo 8: nng hands out bodies at addresses congruent to 4
 * modulo 16, so that a payload lies at a multiple of 8.
 *
 * Thread:   any.
 * Blocking: never.
 * Memory:   qproto_parse() makes views of the caller's bytes. Unpacked protobuf messages come from
 *           a fixed arena of the caller's (qproto_arena), so that decoding allocates nothing.
 * Failure:  Q_E_PROTOCOL with a fault that names field and number.
 * Limits:   QPROTO_HEADER_MAX bytes of header, QPROTO_REPEATED_MAX elements of a repeated field,
 *           QPROTO_TEXT_MAX bytes of a string, QPROTO_ARENA_MAX bytes once unpacked.
 */
#ifndef QPROTO_MESSAGE_H
#define QPROTO_MESSAGE_H

#include <protobuf-c/protobuf-c.h>

#include <qbase/bytes.h>
#include <qbase/err.h>
#include <qproto/ops.h>
#include <qproto/qmq.pb-c.h>

enum {
    QPROTO_HEAD_SIZE = 16,
    QPROTO_VERSION = 0,
    QPROTO_HEADER_MAX = 256 * 1024,
    QPROTO_REPEATED_MAX = 16 * 1024, /* a full window of ranges of one message each is 10,000 */
    QPROTO_TEXT_MAX = 1024,
    QPROTO_ARENA_SIZE = 16 * 1024, /* of an ordinary header; larger ones spill to malloc */
    QPROTO_ARENA_MAX = 4 * 1024 * 1024,
};

struct qproto_message {
    unsigned op;
    int status;
    struct q_bytes header; /* protobuf */
    struct q_bytes payload;
};

/* Check the head and cut the message up. Q_OK or Q_E_PROTOCOL. */
Q_MUST_CHECK enum q_err qproto_parse(struct q_bytes bytes, struct qproto_message *ret_message);

/* Size of a whole message with this header and payload. */
size_t qproto_size(const ProtobufCMessage *header, size_t payload_size);
/*
 * Write head, header and padding into `out`, which has qproto_size() bytes. Returns where the
 * payload goes.
 */
uint8_t *qproto_write(
    uint8_t *out, unsigned op, int status, const ProtobufCMessage *header, size_t payload_size);

/* Memory for one unpacked header. Embedded by its user; reset before each use. */
struct qproto_arena {
    ProtobufCAllocator allocator;
    size_t used;          /* of `space` */
    size_t spilled_bytes; /* what did not fit, since the last reset */
    struct qproto_arena_chunk *spilled;
    uint64_t space[QPROTO_ARENA_SIZE / 8];
};

void qproto_arena_init(struct qproto_arena *arena);
/* Forget everything that was unpacked into it. */
void qproto_arena_reset(struct qproto_arena *arena);
/*
 * Unpack `header` by its descriptor. Q_OK or Q_E_PROTOCOL. The result lives until the arena is
 * reset. Strings are never NULL; messages within messages may be. Use QPROTO_UNPACK for the type.
 */
Q_MUST_CHECK enum q_err qproto_unpack(
    struct q_bytes header,
    const ProtobufCMessageDescriptor *descriptor,
    struct qproto_arena *arena,
    ProtobufCMessage **ret_message);

/* Qmq__Wire__JoinRequest *join; Q_TRY(QPROTO_UNPACK(header, join_request, &arena, &join)); */
#define QPROTO_UNPACK(header, name, arena, ret_message)                                            \
    __extension__({                                                                                \
        ProtobufCMessage *qproto_message_ = NULL;                                                  \
        enum q_err qproto_err_ =                                                                   \
            qproto_unpack((header), &qmq__wire__##name##__descriptor, (arena), &qproto_message_);  \
        if (qproto_err_ == Q_OK) *(ret_message) = (void *)qproto_message_;                         \
        qproto_err_;                                                                               \
    })

/* What an operation's request and answer look like; NULL for an unknown operation. */
const ProtobufCMessageDescriptor *qproto_request_descriptor(unsigned op);
const ProtobufCMessageDescriptor *qproto_answer_descriptor(unsigned op);

/* The header of an answer that tells a failure. `header.base` goes to qproto_size(), _write(). */
struct qproto_error {
    Qmq__Wire__Error header; /* points into the texts below: don't copy this struct */
    char message[Q_FAULT_LINE_MAX];
    char hint[Q_FAULT_TEXT_MAX];
};

/* `fault` tells more about `err`; one of another error, or NULL, is left aside. */
void qproto_error_fill(struct qproto_error *error, enum q_err err, const struct q_fault *fault);

/* The failure a peer answered, recorded as this thread's fault; its error, never Q_OK. */
enum q_err qproto_error_read(struct q_bytes header);

/*
 * Limits of names, checked by servers and clients alike. Q_OK or Q_INVALID with what is wrong.
 * Names with '%' are internal and refused here.
 */
enum {
    QPROTO_SUBJECT_MAX = 127,
    QPROTO_GROUP_MAX = 100,
    QPROTO_CONSUMER_MAX = 100,
    QPROTO_READ_SUBJECT_MAX = 255, /* of one that is only read */
};
Q_MUST_CHECK enum q_err qproto_check_name(const char *what, const char *name, size_t length_max);

/*
 * A group's dead letters of a subject are the subject QPROTO_DEAD_PREFIX SUBJECT%GROUP. It can be
 * read like any other, and is written by its broker alone.
 */
#define QPROTO_DEAD_PREFIX "%DEAD_RETRY%"
/* A subject to read: a name, or dead letters. Q_OK or Q_INVALID. */
Q_MUST_CHECK enum q_err qproto_check_read_subject(const char *name);
/* The subject that decides where `name` is served, into `out`: dead letters are where the messages
 * were. `name` has passed its check. Returns `out`. */
const char *qproto_routed_subject(const char *name, char out[QPROTO_SUBJECT_MAX + 1]);

#endif /* QPROTO_MESSAGE_H */
