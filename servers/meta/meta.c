/*
 * meta.c: calls for meta, from the transport to the store and back.
 *
 * SQLite blocks, so one thread of meta's own does everything: it takes calls from its mailbox,
 * decodes them, asks nodes and routes, answers. A route call that has nothing new to tell is
 * parked; what changes in the table of nodes, or in the groups of a subject, looks through the
 * parked ones.
 *
 *   NET   on_call    a call becomes a job
 *   META  run_call   decode, handle, answer or park
 *   META  on_turn    after each round: leases, what changed for parked calls, time-outs
 */
#include "meta/meta.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/heap.h>

#include "common/answer.h"
#include "common/gate.h"
#include "common/listener.h"
#include "common/log.h"
#include "common/worker.h"
#include "meta/routes.h"

enum {
    PATH_SIZE = 4096,
    JOBS_MAX = 32 * 1024,
    WAIT_MS_MAX = 5 * 60 * 1000,
    BUCKETS = 256,
};

struct meta {
    struct srv_listener *listener;
    struct srv_worker *worker;
    struct srv_gate gate;
    atomic_bool stopping;

    /* Of the meta thread, once it runs. */
    const struct q_clock *clock;
    struct meta_store *store;
    struct meta_nodes nodes;
    struct qproto_arena arena;
    struct q_heap deadlines;       /* of parked calls */
    struct q_list parked[BUCKETS]; /* by subject */
    uint64_t seen_changes;         /* of nodes, that parked calls know */
};

/* A call on its way through meta's thread, or the news that a connection is gone. */
struct meta_call {
    struct srv_job job;
    struct meta *meta;
    struct qnet_call *call; /* NULL: the connection is gone */
    uint64_t connection;
    const struct call_kind *kind;
    struct q_bytes header; /* in the call's own bytes */

    /* Of a parked route call. */
    struct q_list parked;
    struct q_heap_node deadline;
    char subject[QPROTO_SUBJECT_MAX + 1];
    bool assign;
    uint64_t known_version;
};

/* What the meta thread does for each operation. Q_OK: it has answered or parked the call. */
struct call_kind {
    unsigned op;
    enum q_err (*handle)(struct meta_call *call, struct q_bytes header);
};

static enum q_err handle_register(struct meta_call *call, struct q_bytes header);
static enum q_err handle_route(struct meta_call *call, struct q_bytes header);
static enum q_err handle_nodes(struct meta_call *call, struct q_bytes header);

static const struct call_kind kinds[] = {
    { QPROTO_META_REGISTER, handle_register },
    { QPROTO_META_HEARTBEAT, handle_register },
    { QPROTO_META_ROUTE, handle_route },
    { QPROTO_META_NODES, handle_nodes },
};

static void on_call(
    void *context,
    const struct srv_op *op,
    struct qnet_call *call,
    const struct qproto_message *message);
static void on_gone(void *context, uint64_t connection);
static enum q_err post(struct meta *meta, struct meta_call *call);
static void run_call(struct srv_job *job);
static void run_gone(struct meta_call *gone);
static enum q_err park(struct meta_call *call, uint64_t wait_ms);
static void answer_route(struct meta_call *call, const struct meta_route *route);
static void look_again(struct meta_call *call, bool stopping);
static void look_at_bucket(struct meta *meta, const char *subject);
static uint64_t on_turn(void *context);
static struct q_list *bucket_of(struct meta *meta, const char *subject);
static void unpark(struct meta_call *call);
static void end_with_error(struct meta_call *call, enum q_err err);

static const struct srv_op ops[] = {
    { QPROTO_META_REGISTER, on_call, &kinds[0] },
    { QPROTO_META_HEARTBEAT, on_call, &kinds[1] },
    { QPROTO_META_ROUTE, on_call, &kinds[2] },
    { QPROTO_META_NODES, on_call, &kinds[3] },
};

enum q_err
meta_start(const struct meta_options *options, struct meta **ret_meta)
{
    struct meta *meta = calloc(1, sizeof(*meta));
    if (!meta) return Q_FAIL(Q_E_NOMEM);
    meta->clock = options->clock;
    qproto_arena_init(&meta->arena);
    for (int i = 0; i < BUCKETS; i++) {
        q_list_init(&meta->parked[i]);
    }

    char path[PATH_SIZE];
    (void)snprintf(path, sizeof(path), "%s/meta.db", options->directory);
    enum q_err err = meta_sqlite_open(path, meta->clock, &meta->store);
    if (err != Q_OK) goto err_free;
    err = meta_nodes_init(&meta->nodes, meta->store, meta->clock);
    if (err != Q_OK) goto err_store;

    /* From here on the store and all of the table belong to the worker. */
    const struct srv_worker_options worker_options = {
        .name = "qmq-meta",
        .jobs_max = JOBS_MAX,
        .context = meta,
        .on_turn = on_turn,
    };
    err = srv_worker_start(&worker_options, &meta->worker);
    if (err != Q_OK) goto err_nodes;

    const struct srv_listener_options listener_options = {
        .url = options->url,
        .role = "meta",
        .roles = options->roles,
        .program = options->program,
        .node_id = options->node_id,
        .ops = ops,
        .op_count = sizeof(ops) / sizeof(ops[0]),
        .context = meta,
        .on_gone = on_gone,
    };
    err = srv_listener_new(&listener_options, &meta->listener);
    if (err != Q_OK) goto err_worker;

    *ret_meta = meta;
    return Q_OK;

err_worker:
    srv_worker_stop(meta->worker);
err_nodes:
    meta_nodes_fini(&meta->nodes);
err_store:
    meta_close(meta->store);
err_free:
    free(meta);
    return err;
}

void
meta_stop(struct meta *meta)
{
    srv_gate_close(&meta->gate);
    atomic_store(&meta->stopping, true);
    /* Its last turn answers the parked calls. */
    srv_worker_stop(meta->worker);
    srv_listener_free(meta->listener);

    meta_nodes_fini(&meta->nodes);
    meta_close(meta->store);
    q_heap_fini(&meta->deadlines);
    qproto_arena_reset(&meta->arena);
    free(meta);
}

const char *
meta_url(const struct meta *meta)
{
    return srv_listener_url(meta->listener);
}

static void
on_call(
    void *context,
    const struct srv_op *op,
    struct qnet_call *call,
    const struct qproto_message *message)
{
    struct meta *meta = context;
    struct meta_call *meta_call = calloc(1, sizeof(*meta_call));
    if (!meta_call) {
        srv_answer_error(call, message->op, Q_E_NOMEM);
        return;
    }
    meta_call->call = call;
    meta_call->connection = qnet_call_connection(call);
    meta_call->kind = op->route;
    meta_call->header = message->header;

    enum q_err err = post(meta, meta_call);
    if (err != Q_OK) end_with_error(meta_call, err);
}

static void
on_gone(void *context, uint64_t connection)
{
    struct meta_call *gone = calloc(1, sizeof(*gone));
    if (!gone) return; /* its parked calls end by their time-outs */
    gone->connection = connection;
    if (post(context, gone) != Q_OK) free(gone);
}

static enum q_err
post(struct meta *meta, struct meta_call *call)
{
    call->job.run = run_call;
    call->meta = meta;
    q_list_init(&call->parked);
    q_heap_node_init(&call->deadline);

    if (!srv_gate_enter(&meta->gate)) return Q_STOPPING;
    enum q_err err = srv_worker_post(meta->worker, &call->job);
    srv_gate_leave(&meta->gate);
    return err;
}

static void
run_call(struct srv_job *job)
{
    struct meta_call *call = q_container_of(job, struct meta_call, job);
    if (!call->call) {
        run_gone(call);
        return;
    }
    struct meta *meta = call->meta;
    enum q_err err = call->kind->handle(call, call->header);
    qproto_arena_reset(&meta->arena);
    if (err != Q_OK) end_with_error(call, err);
}

static enum q_err
handle_register(struct meta_call *call, struct q_bytes header)
{
    struct meta *meta = call->meta;
    Qmq__Wire__NodeRecord *record;
    Q_TRY(QPROTO_UNPACK(header, node_record, &meta->arena, &record));

    Qmq__Wire__RegisterAnswer answer = QMQ__WIRE__REGISTER_ANSWER__INIT;
    answer.heartbeat_ms = META_HEARTBEAT_MS;
    answer.expiry_ms = META_EXPIRY_MS;
    enum q_err err = meta_nodes_register(&meta->nodes, record);
    if (err != Q_OK && err != Q_CONFLICT) return err;
    answer.admitted = err == Q_OK;
    /* Packed before anything else can record a fault. */
    if (err == Q_CONFLICT) answer.waiting_for = (char *)q_fault_last()->what;
    srv_answer(call->call, call->kind->op, &answer.base);
    free(call);
    return Q_OK;
}

static enum q_err
handle_route(struct meta_call *call, struct q_bytes header)
{
    struct meta *meta = call->meta;
    Qmq__Wire__RouteRequest *request;
    Q_TRY(QPROTO_UNPACK(header, route_request, &meta->arena, &request));
    if (*request->subject && strcmp(request->subject, META_DELAY_GROUPS) != 0)
        Q_TRY(qproto_check_name("subject", request->subject, QPROTO_SUBJECT_MAX));

    (void)snprintf(call->subject, sizeof(call->subject), "%s", request->subject);
    call->assign = request->assign;
    call->known_version = request->known_version;

    struct meta_route route;
    Q_TRY(meta_route_find(&meta->nodes, call->subject, call->assign, &route));
    bool assigned_now = route.assigned_now;
    if (route.version != call->known_version || request->wait_ms == 0)
        answer_route(call, &route);
    else
        Q_TRY(park(call, request->wait_ms));
    /* Last: it may find this very call. */
    if (assigned_now) look_at_bucket(meta, request->subject);
    return Q_OK;
}

static enum q_err
park(struct meta_call *call, uint64_t wait_ms)
{
    struct meta *meta = call->meta;
    uint64_t wait_ns = q_min_u64(wait_ms, WAIT_MS_MAX) * Q_NS_PER_MS;
    Q_TRY(q_heap_push(
        &meta->deadlines, &call->deadline, q_clock_monotonic_ns(meta->clock) + wait_ns));
    q_list_push_back(bucket_of(meta, call->subject), &call->parked);
    return Q_OK;
}

static void
unpark(struct meta_call *call)
{
    q_heap_remove(&call->meta->deadlines, &call->deadline);
    q_list_remove(&call->parked);
}

/* The call is over. */
static void
answer_route(struct meta_call *call, const struct meta_route *route)
{
    Qmq__Wire__RouteGroup groups[META_ROUTE_GROUPS_MAX];
    Qmq__Wire__RouteGroup *pointers[META_ROUTE_GROUPS_MAX];
    for (size_t i = 0; i < route->group_count; i++) {
        const Qmq__Wire__NodeRecord *record = route->groups[i]->record;
        qmq__wire__route_group__init(&groups[i]);
        groups[i].broker_group = record->broker_group;
        groups[i].node_id = record->node_id;
        groups[i].address = record->address;
        groups[i].writable = !record->read_only;
        groups[i].role = record->role;
        groups[i].one_way_address = record->one_way_address;
        pointers[i] = &groups[i];
    }
    Qmq__Wire__RouteSlots slots[META_ROUTE_GROUPS_MAX];
    Qmq__Wire__RouteSlots *slot_pointers[META_ROUTE_GROUPS_MAX];
    for (size_t i = 0; i < route->home_count; i++) {
        qmq__wire__route_slots__init(&slots[i]);
        slots[i].until = meta_route_slots_until(route, i);
        slots[i].broker_group = (char *)route->homes[i];
        slot_pointers[i] = &slots[i];
    }
    Qmq__Wire__RouteAnswer answer = QMQ__WIRE__ROUTE_ANSWER__INIT;
    answer.n_slots = route->home_count;
    answer.slots = slot_pointers;
    answer.version = route->version;
    answer.n_groups = route->group_count;
    answer.groups = pointers;
    srv_answer(call->call, call->kind->op, &answer.base);
    free(call);
}

static enum q_err
handle_nodes(struct meta_call *call, struct q_bytes header)
{
    (void)header; /* Empty has no fields */
    struct meta *meta = call->meta;
    uint32_t count = meta->nodes.count;
    Qmq__Wire__NodeStatus *status = calloc(count + 1, sizeof(*status));
    Qmq__Wire__NodeStatus **pointers = calloc(count + 1, sizeof(void *));
    if (!status || !pointers) {
        free(status);
        free(pointers);
        return Q_FAIL(Q_E_NOMEM);
    }

    Qmq__Wire__NodesAnswer answer = QMQ__WIRE__NODES_ANSWER__INIT;
    answer.nodes = pointers;
    uint64_t now_ns = q_clock_monotonic_ns(meta->clock);
    meta_nodes_for_each(at, &meta->nodes)
    {
        const struct meta_node *node = meta_node_of(at);
        if (!node->record) continue;
        Qmq__Wire__NodeStatus *one = &status[answer.n_nodes];
        qmq__wire__node_status__init(one);
        one->node = node->record;
        one->last_seen_ms_ago = (now_ns - node->seen_ns) / Q_NS_PER_MS;
        one->alive = node->alive;
        pointers[answer.n_nodes++] = one;
    }
    srv_answer(call->call, call->kind->op, &answer.base);
    free(status);
    free(pointers);
    free(call);
    return Q_OK;
}

/* Nobody is left to answer to. */
static void
run_gone(struct meta_call *gone)
{
    struct meta *meta = gone->meta;
    for (int i = 0; i < BUCKETS; i++) {
        q_list_for_each_safe(at, &meta->parked[i]) {
            struct meta_call *call = q_container_of(at, struct meta_call, parked);
            if (call->connection != gone->connection) continue;
            unpark(call);
            qnet_call_drop(call->call);
            free(call);
        }
    }
    free(gone);
}

/* After each round of calls, and when a deadline has come. */
static uint64_t
on_turn(void *context)
{
    struct meta *meta = context;
    uint64_t next_lease_ns = meta_turn(meta->store);

    bool stopping = atomic_load(&meta->stopping);
    /* Looking again may give a subject more broker groups, which others wait for. */
    while (meta->seen_changes != meta->nodes.changes || stopping) {
        meta->seen_changes = meta->nodes.changes;
        for (int i = 0; i < BUCKETS; i++) {
            q_list_for_each_safe(at, &meta->parked[i]) {
                look_again(q_container_of(at, struct meta_call, parked), stopping);
            }
        }
        if (stopping) break;
    }

    uint64_t now_ns = q_clock_monotonic_ns(meta->clock);
    struct q_heap_node *first;
    while ((first = q_heap_first(&meta->deadlines)) && first->key <= now_ns) {
        struct meta_call *call = q_container_of(first, struct meta_call, deadline);
        call->known_version = 0;
        look_again(call, false);
    }
    return first ? q_min_u64(first->key, next_lease_ns) : next_lease_ns;
}

/* A subject was given broker groups: its waiters want to know. */
static void
look_at_bucket(struct meta *meta, const char *subject)
{
    q_list_for_each_safe(at, bucket_of(meta, subject)) {
        struct meta_call *call = q_container_of(at, struct meta_call, parked);
        if (strcmp(call->subject, subject) == 0) look_again(call, false);
    }
}

/* A parked call: is there something new to tell? */
static void
look_again(struct meta_call *call, bool stopping)
{
    struct meta_route route;
    enum q_err err = Q_STOPPING;
    if (!stopping) err = meta_route_find(&call->meta->nodes, call->subject, call->assign, &route);
    if (err == Q_OK && route.assigned_now) call->meta->nodes.changes++;
    if (err == Q_OK && route.version == call->known_version) return;

    unpark(call);
    if (err == Q_OK)
        answer_route(call, &route);
    else
        end_with_error(call, err);
}

static struct q_list *
bucket_of(struct meta *meta, const char *subject)
{
    uint32_t hash = 5381;
    for (; *subject; subject++) {
        hash = hash * 33 + (uint8_t)*subject;
    }
    return &meta->parked[hash % BUCKETS];
}

/* The call is over. */
static void
end_with_error(struct meta_call *call, enum q_err err)
{
    if (err < 0)
        srv_log(
            SRV_META_FAILED, "op=%s %s", qproto_op_name(call->kind->op),
            srv_fault_keys(q_fault_last()));
    srv_answer_error(call->call, call->kind->op, err);
    free(call);
}
