/*
 * server.c: calls over nng's reply contexts.
 *
 * A context carries one call: it receives the request and later sends the answer. One context, and
 * never two, waits for the next request: nng runs callbacks of consecutive requests on several
 * threads at once, so a second waiting context would let requests overtake each other. Whoever
 * handles a request lets the next context wait when it is done; at calls_max nobody does, until a
 * call comes back. Meanwhile nng stops reading, one message per connection later.
 *
 *   call:   FREE -> RECEIVING -> HELD -> ANSWERING -> FREE
 *                                HELD -> FREE (dropped)
 *
 * nng never tells that the connection of an answer is gone: it pretends to have sent it. What it
 * does tell is that a connection (a pipe, in its words) begins and ends; but the end may be told
 * while a request of that connection is on its way to us. Hence the table of connections: a request
 * whose connection is not in it any more is dropped, and an end that is told during on_call is
 * passed on by the thread that runs on_call, after it.
 *
 * A context that is in use while nng closes its socket may touch the socket's freed memory (1.5.2).
 * So a server that is freed first lets every use of a context end and begins no other.
 */
#include <qnet/server.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/supplemental/util/platform.h>

#include <qbase/assert.h>
#include <qbase/list.h>

#include "endpoint.h"
#include "message.h"

enum {
    CALLS_MAX_DEFAULT = 16384,
    CONNECTION_CALLS_MAX_DEFAULT = 10240,
    CONNECTIONS_MAX_DEFAULT = 4096,
    REFUSALS_MAX = 1024,           /* of one connection, waiting to leave */
    ANSWER_TIMEOUT_MS = 30 * 1000, /* a peer that takes nothing for so long is dead */
    LINGER_MS = 1000,              /* for the last answers to leave */
    QUIET_MS = 20,                 /* for the last messages to be read */
    REQUEST_ID_BYTES = 4,          /* nng's, before each request */
    BUCKETS = 256,                 /* a power of two */
    SLOTS = 2,
};

struct connection {
    struct q_list node; /* in its bucket, until it is gone */
    uint64_t id;        /* never used again, unlike nng's number */
    nng_pipe pipe;
    unsigned calls;    /* not yet FREE, without refusals */
    unsigned refusals; /* answers by on_busy that have not left */
    bool called;       /* on_call has run for it */
    bool gone;
};

enum call_state {
    CALL_FREE,
    CALL_RECEIVING,
    CALL_HELD,
    CALL_ANSWERING,
};

struct qnet_call {
    struct qnet_server *server;
    struct q_list node;      /* in server.free */
    struct qnet_call *other; /* the one made before */
    nng_ctx context;
    nng_aio *aio;
    enum call_state state;
    struct connection *connection; /* while HELD or ANSWERING */
    nng_msg *request;              /* while HELD */
    size_t answer_size;
    bool is_refusal;
    void *slots[SLOTS];
};

struct qnet_server {
    struct qnet_server_options options;
    char *url;
    nng_socket socket;
    atomic_uint uses; /* threads inside nng with a context of ours */

    /* Guards what follows. Not held while the user's code runs, nor nng's that may call us. */
    pthread_mutex_t lock;
    struct q_list free;
    struct qnet_call *last_made;
    unsigned made;
    bool starved;               /* no call waits for a request: there was none */
    bool stopping;              /* no more uses of contexts */
    struct connection *calling; /* its on_call runs */
    uint64_t connection_ids;
    struct qnet_server_stats stats;
    struct q_list buckets[BUCKETS]; /* connections by nng's number */
};

enum admission {
    ADMITTED,
    REFUSED,
    TOO_LONG,
    STRAY, /* its connection has ended, or the server is about to */
};

static enum q_err open_and_listen(struct qnet_server *server);
static void stop_calls(struct qnet_server *server);
static bool cancel_calls(struct qnet_server *server, bool answering_too);
static void on_pipe(nng_pipe pipe, nng_pipe_ev event, void *context);
static void connection_begins(struct qnet_server *server, nng_pipe pipe);
static void connection_ends(struct qnet_server *server, nng_pipe pipe);
static void on_aio(void *context);
static void request_came(struct qnet_call *call);
static enum admission admit(struct qnet_call *call);
static void refuse(struct qnet_call *call);
static void finish_on_call(struct qnet_server *server);
static void answer_left(struct qnet_call *call);
static void release(struct qnet_call *call);
static void arm_next(struct qnet_server *server);
static void arm(struct qnet_call *call);
static struct qnet_call *call_new(struct qnet_server *server);
static struct connection *find(struct qnet_server *server, nng_pipe pipe);
static void free_if_over(struct qnet_server *server, struct connection *connection);

enum q_err
qnet_server_new(const struct qnet_server_options *options, struct qnet_server **ret_server)
{
    Q_ASSERT(options->url != NULL);
    Q_ASSERT(options->on_call != NULL);

    struct qnet_server *server = calloc(1, sizeof(*server));
    if (server == NULL) return Q_FAIL(Q_E_NOMEM, .path = options->url);

    server->options = *options;
    if (options->calls_max == 0) server->options.calls_max = CALLS_MAX_DEFAULT;
    if (options->connection_calls_max == 0) {
        server->options.connection_calls_max = CONNECTION_CALLS_MAX_DEFAULT;
    }
    if (options->connections_max == 0) server->options.connections_max = CONNECTIONS_MAX_DEFAULT;
    q_list_init(&server->free);
    for (unsigned i = 0; i < BUCKETS; i++) {
        q_list_init(&server->buckets[i]);
    }
    Q_ASSERT(pthread_mutex_init(&server->lock, NULL) == 0);

    enum q_err err = open_and_listen(server);
    if (err != Q_OK) {
        qnet_server_free(server);
        return err;
    }
    *ret_server = server;
    return Q_OK;
}

static enum q_err
open_and_listen(struct qnet_server *server)
{
    struct qnet_server_options *options = &server->options;
    int failed = nng_rep0_open(&server->socket);
    if (failed == 0) {
        failed = nng_pipe_notify(server->socket, NNG_PIPE_EV_ADD_PRE, on_pipe, server);
    }
    if (failed == 0) {
        failed = nng_pipe_notify(server->socket, NNG_PIPE_EV_REM_POST, on_pipe, server);
    }
    if (failed != 0) return qnet_endpoint_failed(failed, options->url);

    Q_TRY(qnet_endpoint_limit(
        server->socket, options->message_bytes_max, REQUEST_ID_BYTES, options->url,
        &options->message_bytes_max));

    /* The first one now: later ones may fail to come for lack of memory, and then the server waits
     * for one to return. */
    server->starved = true;
    struct qnet_call *first = call_new(server);
    if (first == NULL) return Q_FAIL(Q_E_NOMEM, .path = options->url);
    release(first);

    return qnet_endpoint_listen(server->socket, options->url, &server->url);
}

void
qnet_server_free(struct qnet_server *server)
{
    if (server == NULL) return;

    stop_calls(server);
    /* Before their contexts are closed, since a time-out of nng's might look for those. */
    for (struct qnet_call *call = server->last_made; call != NULL; call = call->other) {
        nng_aio_free(call->aio);
    }
    /* Waits for on_pipe(), hence for on_gone. */
    if (server->socket.id != 0) nng_close(server->socket);
    Q_ASSERT(server->stats.calls_held == 0);
    while (server->last_made != NULL) {
        struct qnet_call *call = server->last_made;
        server->last_made = call->other;
        free(call);
    }
    /* nng may tell that a connection begins, and not that it ends, while a socket is closed. */
    for (unsigned i = 0; i < BUCKETS; i++) {
        q_list_for_each_safe(at, &server->buckets[i]) {
            free(q_container_of(at, struct connection, node));
        }
    }
    pthread_mutex_destroy(&server->lock);
    free(server->url);
    free(server);
}

/* Afterwards all calls are FREE or HELD, no context is in use, and none will be. */
static void
stop_calls(struct qnet_server *server)
{
    pthread_mutex_lock(&server->lock);
    server->stopping = true;
    pthread_mutex_unlock(&server->lock);

    /* What was about to begin may begin yet, so cancelling once is not enough. */
    for (unsigned ms = 0; cancel_calls(server, ms >= LINGER_MS); ms++) {
        nng_msleep(1);
    }
    while (atomic_load(&server->uses) > 0) {
        nng_msleep(1);
    }
    /* With no context that waits, each connection reads one more message at most, and then none. One that is
     * closed in the middle of a message may never be freed (caller.c), and nng_close() waits for it. */
    nng_msleep(QUIET_MS);
}

/* Whether there were any. */
static bool
cancel_calls(struct qnet_server *server, bool answering_too)
{
    bool found = false;
    pthread_mutex_lock(&server->lock);
    for (struct qnet_call *call = server->last_made; call != NULL; call = call->other) {
        bool is_waiting = call->state == CALL_RECEIVING;
        bool is_answering = call->state == CALL_ANSWERING;
        if (is_waiting || (is_answering && answering_too)) nng_aio_cancel(call->aio);
        found = found || is_waiting || is_answering;
    }
    pthread_mutex_unlock(&server->lock);
    return found;
}

const char *
qnet_server_url(const struct qnet_server *server)
{
    return server->url;
}

void
qnet_server_stats(struct qnet_server *server, struct qnet_server_stats *ret_stats)
{
    pthread_mutex_lock(&server->lock);
    *ret_stats = server->stats;
    pthread_mutex_unlock(&server->lock);
}

struct q_bytes
qnet_call_request(const struct qnet_call *call)
{
    Q_ASSERT(call->request != NULL);
    return q_bytes_from(nng_msg_body(call->request), nng_msg_len(call->request));
}

uint8_t *
qnet_call_request_data(struct qnet_call *call)
{
    Q_ASSERT(call->request != NULL);
    return nng_msg_body(call->request);
}

struct qnet_buffer *
qnet_call_take_request(struct qnet_call *call)
{
    Q_ASSERT(call->request != NULL);
    nng_msg *request = call->request;
    call->request = NULL;
    return qnet_message_buffer(request);
}

uint64_t
qnet_call_connection(const struct qnet_call *call)
{
    return call->connection->id;
}

void **
qnet_call_slot(struct qnet_call *call, unsigned index)
{
    Q_ASSERT(index < SLOTS);
    return &call->slots[index];
}

void
qnet_call_answer(struct qnet_call *call, struct qnet_buffer *answer)
{
    Q_ASSERT(call->state == CALL_HELD);
    Q_ASSERT(answer != NULL);
    struct qnet_server *server = call->server;
    nng_msg_free(call->request);
    call->request = NULL;
    call->answer_size = qnet_buffer_size(answer);

    pthread_mutex_lock(&server->lock);
    bool stopping = server->stopping;
    if (!stopping) {
        call->state = CALL_ANSWERING;
        atomic_fetch_add(&server->uses, 1);
    }
    pthread_mutex_unlock(&server->lock);

    if (stopping) {
        qnet_buffer_free(answer);
        release(call);
        return;
    }
    nng_aio_set_msg(call->aio, qnet_buffer_message(answer));
    nng_aio_set_timeout(call->aio, ANSWER_TIMEOUT_MS);
    nng_ctx_send(call->context, call->aio);
    atomic_fetch_sub(&server->uses, 1);
}

void
qnet_call_drop(struct qnet_call *call)
{
    Q_ASSERT(call->state == CALL_HELD);
    release(call);
}

static void
on_pipe(nng_pipe pipe, nng_pipe_ev event, void *context)
{
    struct qnet_server *server = context;
    if (event == NNG_PIPE_EV_ADD_PRE) {
        connection_begins(server, pipe);
    } else {
        connection_ends(server, pipe);
    }
}

static void
connection_begins(struct qnet_server *server, nng_pipe pipe)
{
    struct connection *connection = calloc(1, sizeof(*connection));

    pthread_mutex_lock(&server->lock);
    bool is_welcome = connection != NULL && !server->stopping &&
                      server->stats.connections_now < server->options.connections_max;
    if (is_welcome) {
        connection->id = ++server->connection_ids;
        connection->pipe = pipe;
        q_list_push_back(&server->buckets[pipe.id % BUCKETS], &connection->node);
        server->stats.connections++;
        server->stats.connections_now++;
    }
    pthread_mutex_unlock(&server->lock);

    if (!is_welcome) {
        free(connection);
        nng_pipe_close(pipe);
    }
}

static void
connection_ends(struct qnet_server *server, nng_pipe pipe)
{
    pthread_mutex_lock(&server->lock);
    struct connection *connection = find(server, pipe);
    bool tell = false;
    uint64_t id = 0;
    if (connection != NULL) {
        q_list_remove(&connection->node);
        connection->gone = true;
        server->stats.connections_now--;
        tell = connection->called && server->calling != connection;
        id = connection->id;
        free_if_over(server, connection);
    }
    pthread_mutex_unlock(&server->lock);

    if (tell && server->options.on_gone != NULL) {
        server->options.on_gone(server->options.context, id);
    }
}

static void
on_aio(void *context)
{
    struct qnet_call *call = context;
    if (call->state == CALL_ANSWERING) {
        answer_left(call);
    } else if (nng_aio_result(call->aio) == 0) {
        request_came(call);
    } else {
        /* Cancelled by stop_calls(); or by nng, whose time-outs may hit an aio that has gone on to
         * its next use. Then some call has to wait for requests again. */
        release(call);
        arm_next(call->server);
    }
}

static void
request_came(struct qnet_call *call)
{
    struct qnet_server *server = call->server;
    call->request = nng_aio_get_msg(call->aio);
    nng_aio_set_msg(call->aio, NULL);
    call->slots[0] = NULL;
    call->slots[1] = NULL;

    switch (admit(call)) {
    case ADMITTED:
        /* When this returns, the call may have been answered and have come back already: only the
         * server may be touched. */
        server->options.on_call(server->options.context, call);
        finish_on_call(server);
        break;
    case REFUSED:
        refuse(call);
        break;
    case TOO_LONG:
        nng_pipe_close(nng_msg_get_pipe(call->request));
        release(call);
        break;
    case STRAY:
        release(call);
        break;
    }
    arm_next(server);
}

static enum admission
admit(struct qnet_call *call)
{
    struct qnet_server *server = call->server;
    size_t size = nng_msg_len(call->request);
    enum admission admission;

    pthread_mutex_lock(&server->lock);
    call->state = CALL_HELD;
    call->is_refusal = false;
    struct connection *connection = find(server, nng_msg_get_pipe(call->request));
    if (connection == NULL || server->stopping) {
        admission = STRAY;
    } else if (size > server->options.message_bytes_max) {
        /* Only inproc gets here: the other transports look at the length before they read. */
        admission = TOO_LONG;
    } else if (connection->calls >= server->options.connection_calls_max) {
        call->connection = connection;
        call->is_refusal = true;
        connection->refusals++;
        server->stats.busy++;
        server->stats.calls_held++;
        admission = REFUSED;
    } else {
        call->connection = connection;
        connection->calls++;
        connection->called = true;
        server->calling = connection;
        server->stats.calls++;
        server->stats.bytes_in += size;
        server->stats.calls_held++;
        admission = ADMITTED;
    }
    pthread_mutex_unlock(&server->lock);
    return admission;
}

/* Refusals wait for a peer that does not read as answers do; so they have a limit, too. */
static void
refuse(struct qnet_call *call)
{
    struct qnet_server *server = call->server;
    pthread_mutex_lock(&server->lock);
    bool too_many = call->connection->refusals > REFUSALS_MAX;
    nng_pipe pipe = call->connection->pipe;
    pthread_mutex_unlock(&server->lock);

    struct qnet_buffer *answer;
    if (!too_many && server->options.on_busy != NULL &&
        server->options.on_busy(server->options.context, qnet_call_request(call), &answer) == Q_OK)
    {
        qnet_call_answer(call, answer);
    } else {
        nng_pipe_close(pipe);
        qnet_call_drop(call);
    }
}

static void
finish_on_call(struct qnet_server *server)
{
    pthread_mutex_lock(&server->lock);
    struct connection *connection = server->calling;
    server->calling = NULL;
    bool tell = connection->gone;
    uint64_t id = connection->id;
    free_if_over(server, connection);
    pthread_mutex_unlock(&server->lock);

    if (tell && server->options.on_gone != NULL) {
        server->options.on_gone(server->options.context, id);
    }
}

static void
answer_left(struct qnet_call *call)
{
    struct qnet_server *server = call->server;
    int failed = nng_aio_result(call->aio);
    if (failed != 0) {
        nng_msg_free(nng_aio_get_msg(call->aio));
        nng_aio_set_msg(call->aio, NULL);
        /* The peer waits for an answer that will never come: let it know. */
        if (failed == NNG_ETIMEDOUT) nng_pipe_close(call->connection->pipe);
    } else {
        pthread_mutex_lock(&server->lock);
        server->stats.answers++;
        server->stats.bytes_out += call->answer_size;
        pthread_mutex_unlock(&server->lock);
    }
    release(call);
}

/* The call is over: it waits for the next one, or for its turn to wait. */
static void
release(struct qnet_call *call)
{
    struct qnet_server *server = call->server;
    nng_msg_free(call->request);
    call->request = NULL;

    pthread_mutex_lock(&server->lock);
    struct connection *connection = call->connection;
    call->connection = NULL;
    call->state = CALL_FREE;
    if (connection != NULL) {
        unsigned *count = call->is_refusal ? &connection->refusals : &connection->calls;
        --*count;
        server->stats.calls_held--;
        free_if_over(server, connection);
    }
    bool is_wanted = server->starved && !server->stopping;
    if (is_wanted) {
        server->starved = false;
        call->state = CALL_RECEIVING;
        atomic_fetch_add(&server->uses, 1);
    } else {
        q_list_push_front(&server->free, &call->node);
    }
    pthread_mutex_unlock(&server->lock);

    if (is_wanted) arm(call);
}

/* Only one thread at a time gets here: the one whose call was armed last. */
static void
arm_next(struct qnet_server *server)
{
    pthread_mutex_lock(&server->lock);
    if (server->stopping) {
        pthread_mutex_unlock(&server->lock);
        return;
    }
    atomic_fetch_add(&server->uses, 1);
    struct q_list *node = q_list_pop_front(&server->free);
    struct qnet_call *call = NULL;
    if (node != NULL) {
        call = q_container_of(node, struct qnet_call, node);
        call->state = CALL_RECEIVING;
    }
    server->starved = node == NULL;
    bool may_grow = server->made < server->options.calls_max;
    pthread_mutex_unlock(&server->lock);

    if (call != NULL) {
        arm(call);
        return;
    }
    if (may_grow) {
        /* Enters through release(), since one that came back meanwhile may have been armed. */
        call = call_new(server);
        if (call != NULL) release(call);
    }
    atomic_fetch_sub(&server->uses, 1);
}

/* The call is RECEIVING, and counted in server.uses. */
static void
arm(struct qnet_call *call)
{
    struct qnet_server *server = call->server;
    nng_aio_set_timeout(call->aio, NNG_DURATION_INFINITE);
    nng_ctx_recv(call->context, call->aio);
    /* `call` may be with the user by now. */
    atomic_fetch_sub(&server->uses, 1);
}

static struct qnet_call *
call_new(struct qnet_server *server)
{
    struct qnet_call *call = calloc(1, sizeof(*call));
    if (call == NULL) return NULL;
    call->server = server;
    if (nng_aio_alloc(&call->aio, on_aio, call) != 0) goto err_free;
    if (nng_ctx_open(&call->context, server->socket) != 0) goto err_aio;

    pthread_mutex_lock(&server->lock);
    call->other = server->last_made;
    server->last_made = call;
    server->made++;
    pthread_mutex_unlock(&server->lock);
    return call;

err_aio:
    nng_aio_free(call->aio);
err_free:
    free(call);
    return NULL;
}

static struct connection *
find(struct qnet_server *server, nng_pipe pipe)
{
    q_list_for_each(at, &server->buckets[pipe.id % BUCKETS]) {
        struct connection *connection = q_container_of(at, struct connection, node);
        if (connection->pipe.id == pipe.id) return connection;
    }
    return NULL;
}

static void
free_if_over(struct qnet_server *server, struct connection *connection)
{
    if (connection->gone && connection->calls == 0 && connection->refusals == 0 &&
        server->calling != connection)
    {
        free(connection);
    }
}
