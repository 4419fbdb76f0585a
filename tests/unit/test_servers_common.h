/*
 * test_servers_common.h: a temporary directory, and calls to a server as a client makes them.
 */
#ifndef TEST_SERVERS_COMMON_H
#define TEST_SERVERS_COMMON_H

#include <ftw.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include <qnet/caller.h>
#include <qproto/message.h>

enum {
    PATIENCE_MS = 20000
};

static char test_directory[64];

static inline int
test_remove_one(const char *path, const struct stat *about, int kind, struct FTW *place)
{
    (void)about;
    (void)kind;
    (void)place;
    return remove(path);
}

static inline void
test_directory_make(void)
{
    (void)snprintf(test_directory, sizeof(test_directory), "/tmp/qmq-test-XXXXXX");
    cr_assert_not_null(mkdtemp(test_directory));
}

static inline void
test_directory_remove(void)
{
    nftw(test_directory, test_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline const char *
test_path(const char *name)
{
    return q_text("%s/%s", test_directory, name);
}

static inline struct qnet_caller *
test_connect(const char *url)
{
    const struct qnet_caller_options options = { .url = url };
    struct qnet_caller *caller;
    cr_assert_eq(qnet_caller_new(&options, &caller), Q_OK);
    return caller;
}

/* A call under way, and then what came of it. */
struct test_call {
    struct qnet_request request;
    atomic_bool is_over;
    enum q_err err;
    struct qnet_buffer *answer;
    struct qproto_message message;
    struct qproto_arena arena;
    ProtobufCMessage *header; /* of the answer, or Error */
};

static inline void
test_on_done(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer)
{
    struct test_call *call = request->context;
    call->err = err;
    call->answer = answer;
    atomic_store(&call->is_over, true);
}

/* `payload` may be empty. */
static inline struct test_call *
test_call_begin(
    struct qnet_caller *caller, unsigned op, const ProtobufCMessage *header, struct q_bytes payload)
{
    struct test_call *call = calloc(1, sizeof(*call));
    qproto_arena_init(&call->arena);
    call->request.timeout_ms = PATIENCE_MS;
    call->request.done = test_on_done;
    call->request.context = call;
    size_t size = qproto_size(header, payload.size);
    cr_assert_eq(qnet_buffer_new(size, &call->request.buffer), Q_OK);
    uint8_t *to = qproto_write(qnet_buffer_data(call->request.buffer), op, 0, header, payload.size);
    if (payload.size > 0) memcpy(to, payload.data, payload.size);
    cr_assert_eq(qnet_caller_submit(caller, &call->request), Q_OK);
    return call;
}

static inline bool
test_call_is_over(struct test_call *call)
{
    return atomic_load(&call->is_over);
}

/* Wait for the answer; its status, with `header` unpacked. */
static inline enum q_err
test_call_wait(struct test_call *call)
{
    for (int ms = 0; ms < PATIENCE_MS && !test_call_is_over(call); ms++) {
        usleep(1000);
    }
    cr_assert(test_call_is_over(call));
    if (call->err != Q_OK) return call->err;

    struct q_bytes bytes =
        q_bytes_from(qnet_buffer_data(call->answer), qnet_buffer_size(call->answer));
    cr_assert_eq(qproto_parse(bytes, &call->message), Q_OK);
    const ProtobufCMessageDescriptor *descriptor = qproto_answer_descriptor(call->message.op);
    if (call->message.status != 0 || !descriptor) descriptor = &qmq__wire__error__descriptor;
    cr_assert_eq(
        qproto_unpack(call->message.header, descriptor, &call->arena, &call->header), Q_OK);
    return (enum q_err)call->message.status;
}

static inline void
test_call_free(struct test_call *call)
{
    qnet_buffer_free(call->answer);
    qproto_arena_reset(&call->arena);
    free(call);
}

static inline const Qmq__Wire__Error *
test_call_error(const struct test_call *call)
{
    return (const Qmq__Wire__Error *)call->header;
}

#endif /* TEST_SERVERS_COMMON_H */
