/*
 * qnet/server.h: take calls, answer each once.
 *
 * A call is bytes in and one answer out; what the bytes mean is none of this module's business. A
 * call may be answered at once or kept for as long as it takes (a parked call); answers may leave
 * in any order. Calls of one connection arrive in the order in which they were sent.
 *
 * Thread:   on_call and on_gone run on the transport's threads: on_call never twice at a time,
 *           on_gone of different connections perhaps beside it. All functions: any thread.
 * Blocking: on_call and on_gone must not block. qnet_server_free() waits for both to end, so it
 *           must not be called from them.
 * Memory:   a call is the server's object (about 1.2 KiB), from a free list that grows to calls_max
 *           and is lent until it is answered or dropped. It counts towards the limits until its
 *           answer has left. At calls_max the server stops reading (back-pressure).
 * Failure:  an answer to a connection that is gone is dropped without notice; that is why on_gone
 *           exists. A connection that takes no answer for 30 s is closed.
 */
#ifndef QNET_SERVER_H
#define QNET_SERVER_H

#include <qnet/buffer.h>

struct qnet_server;
struct qnet_call;

struct qnet_server_options {
    const char *url;          /* tcp://127.0.0.1:20880, ipc:///path, inproc://name; port 0: any */
    size_t message_bytes_max; /* 0: 4 MiB + 64 KiB. A longer one ends its connection */
    unsigned calls_max;       /* in the hands of the user at once. 0: 16384 */
    unsigned connection_calls_max; /* of one connection; above: answered by on_busy. 0: 10240 */
    unsigned connections_max;      /* more are refused. 0: 4096 */
    void *context;
    /* A call has come. It must be answered or dropped, now or later, exactly once. */
    void (*on_call)(void *context, struct qnet_call *call);
    /* The connection has ended: calls of it that are still held should be dropped. Runs once for
     * each connection that had called, never at the same time as its on_call. */
    void (*on_gone)(void *context, uint64_t connection);
    /* Write the answer for a call beyond connection_calls_max into a new buffer; `request` is what
     * came. NULL: such calls are dropped with their connection. */
    enum q_err (*on_busy)(void *context, struct q_bytes request, struct qnet_buffer **ret_answer);
};

struct qnet_server_stats {
    uint64_t calls;
    uint64_t answers;
    uint64_t busy;
    uint64_t connections; /* ever */
    uint64_t bytes_in;
    uint64_t bytes_out;
    unsigned connections_now;
    unsigned calls_held; /* their answers have not left yet */
};

/*
 * Listen and begin to take calls.
 *
 * Q_OK, Q_E_ADDRESS_IN_USE, Q_E_PERMISSION, Q_INVALID (the url), Q_E_NOMEM, Q_E_IO. on_call may
 * run before this returns. A socket file that a dead process left at an ipc path is replaced;
 * anything else there is left alone: Q_INVALID.
 */
Q_MUST_CHECK enum q_err qnet_server_new(
    const struct qnet_server_options *options, struct qnet_server **ret_server);
/*
 * Take no more calls, give the last answers up to 1 s to leave, close the listener and all
 * connections. on_gone runs for those that had called. Held calls are dropped by their holders
 * before, or in on_gone. NULL is fine.
 */
void qnet_server_free(struct qnet_server *server);
/* The url with the real port. Valid as long as the server. */
const char *qnet_server_url(const struct qnet_server *server);
void qnet_server_stats(struct qnet_server *server, struct qnet_server_stats *ret_stats);

/* The bytes that came; valid until the call is answered, dropped, or its buffer taken. They lie at
 * an address of 4 mod 16. */
struct q_bytes qnet_call_request(const struct qnet_call *call);
/* The same, writable: the store fills the broker's prefix of a batch where it lies. */
uint8_t *qnet_call_request_data(struct qnet_call *call);
/* The buffer itself: to keep it longer than the call, or to turn it into the answer. Once. */
struct qnet_buffer *qnet_call_take_request(struct qnet_call *call);
/* A number that no other connection of this server has or had. */
uint64_t qnet_call_connection(const struct qnet_call *call);
/* Two words of the holder's, zero when the call arrives: its request object, a list. */
void **qnet_call_slot(struct qnet_call *call, unsigned index);

/* Takes `answer`; the call is over. */
void qnet_call_answer(struct qnet_call *call, struct qnet_buffer *answer);
/* No answer; the call is over. For calls whose connection is gone. */
void qnet_call_drop(struct qnet_call *call);

#endif /* QNET_SERVER_H */
