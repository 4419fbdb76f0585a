#include "delay/sender.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbase/list.h>
#include <qbase/map.h>
#include <qnet/caller.h>
#include <qproto/message.h>

#include "common/log.h"

enum {
    ROUTE_GROUPS_MAX = 16,
    META_TIMEOUT_MS = 2000,
    SEND_TIMEOUT_MS = 10 * 1000,
    ROUTE_AGE_MS = 3000,  /* then it is asked for again, when it is used */
    GROUPS_AGE_MS = 1000, /* all groups: where they are */
};

struct route {
    struct q_list wanted; /* in sender.wanted */
    uint64_t told_ns;     /* 0: never */
    unsigned count;
    char groups[ROUTE_GROUPS_MAX][QPROTO_GROUP_MAX + 1];
    char name[];
};

/* A broker group. */
struct target {
    struct q_list link;
    char name[QPROTO_GROUP_MAX + 1];
    char *address;
    struct qnet_caller *caller;
    bool is_away; /* the last request could not be stored there */
};

struct delay_sender {
    char *meta_url;
    struct qnet_caller *meta;
    atomic_bool stopping;
    pthread_t thread;
    bool has_thread;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct qlog_delay *store;
    struct q_map map; /* routes by name */
    struct route **routes;
    uint32_t route_count;
    struct q_list wanted;
    struct q_list targets;

    char answer[QPROTO_GROUP_MAX + 1]; /* of route(); the store's thread */
};

/* A request on its way. */
struct flight {
    struct qnet_request net;
    struct delay_sender *sender;
    struct qlog_delay_send *send;
    char group[QPROTO_GROUP_MAX + 1];
};

static const char *on_route(void *context, struct q_bytes subject, unsigned index);
static void on_send(void *context, struct qlog_delay_send *send);
static enum q_err send_to(
    struct delay_sender *sender, struct target *target, struct qlog_delay_send *send);
static enum q_err build(const struct qlog_delay_send *send, struct qnet_buffer **ret_buffer);
static void on_published(struct qnet_request *net, enum q_err err, struct qnet_buffer *buffer);
static enum q_err read_published(struct qnet_buffer *buffer);
static void note_outcome(struct delay_sender *sender, const char *group, enum q_err err);
static void *sender_main(void *argument);
static void ask(struct delay_sender *sender, const char *subject);
static void learn(
    struct delay_sender *sender, const char *subject, const Qmq__Wire__RouteAnswer *answer);
static struct target *find_target(struct delay_sender *sender, const char *group);
static void move_target(struct delay_sender *sender, const Qmq__Wire__RouteGroup *group);

static uint64_t
now_ns(void)
{
    return q_clock_monotonic_ns(q_clock_system());
}

enum q_err
delay_sender_new(const char *meta_url, struct delay_sender **ret_sender)
{
    struct delay_sender *sender = calloc(1, sizeof(*sender));
    if (!sender) return Q_FAIL(Q_E_NOMEM);
    q_list_init(&sender->wanted);
    q_list_init(&sender->targets);
    Q_ASSERT(pthread_mutex_init(&sender->lock, NULL) == 0);
    pthread_condattr_t attributes;
    Q_ASSERT(pthread_condattr_init(&attributes) == 0);
    Q_ASSERT(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0);
    Q_ASSERT(pthread_cond_init(&sender->changed, &attributes) == 0);
    pthread_condattr_destroy(&attributes);

    const struct qnet_caller_options options = { .url = meta_url };
    enum q_err err = qnet_caller_new(&options, &sender->meta);
    if (err == Q_OK) {
        int error = pthread_create(&sender->thread, NULL, sender_main, sender);
        if (error)
            err =
                Q_FAIL(q_err_from_errno(error), .sys = error, .what = "a thread can't be started");
        sender->has_thread = error == 0;
    }
    if (err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        delay_sender_free(sender);
        q_fault_adopt(&fault);
        return err;
    }
    *ret_sender = sender;
    return Q_OK;
}

struct qlog_delay_sender
delay_sender_table(struct delay_sender *sender)
{
    return (struct qlog_delay_sender){ .context = sender, .route = on_route, .send = on_send };
}

void
delay_sender_attach(struct delay_sender *sender, struct qlog_delay *store)
{
    pthread_mutex_lock(&sender->lock);
    sender->store = store;
    pthread_mutex_unlock(&sender->lock);
}

void
delay_sender_stop(struct delay_sender *sender)
{
    if (atomic_exchange(&sender->stopping, true)) return;
    pthread_mutex_lock(&sender->lock);
    pthread_cond_signal(&sender->changed);
    pthread_mutex_unlock(&sender->lock);
    if (sender->has_thread) Q_ASSERT(pthread_join(sender->thread, NULL) == 0);
    /* Nobody adds targets any more, and send() looks at `stopping` under the lock. */
    q_list_for_each(link, &sender->targets) {
        struct target *target = q_container_of(link, struct target, link);
        pthread_mutex_lock(&sender->lock);
        struct qnet_caller *caller = target->caller;
        target->caller = NULL;
        pthread_mutex_unlock(&sender->lock);
        qnet_caller_free(caller);
    }
}

void
delay_sender_free(struct delay_sender *sender)
{
    if (!sender) return;
    delay_sender_stop(sender);
    qnet_caller_free(sender->meta);
    struct q_list *link;
    while ((link = q_list_pop_front(&sender->targets))) {
        struct target *target = q_container_of(link, struct target, link);
        free(target->address);
        free(target);
    }
    for (uint32_t i = 0; i < sender->route_count; i++)
        free(sender->routes[i]);
    free(sender->routes);
    q_map_fini(&sender->map);
    pthread_cond_destroy(&sender->changed);
    pthread_mutex_destroy(&sender->lock);
    free(sender);
}

/* --- Routes, as the store asks for them. */

/* FNV-1a: names are short, and were checked when they came. */
static uint64_t
hash_name(struct q_bytes name)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < name.size; i++)
        hash = (hash ^ name.data[i]) * 0x100000001b3u;
    return hash;
}

static bool
is_route(const void *key, uint32_t value, const void *context)
{
    const struct delay_sender *sender = context;
    const struct q_bytes *name = key;
    return q_bytes_equal(q_bytes_from_text(sender->routes[value]->name), *name);
}

/* The route of a subject, made when it is not there; NULL without memory. */
static struct route *
get_route(struct delay_sender *sender, struct q_bytes subject)
{
    uint32_t index;
    if (q_map_get(&sender->map, hash_name(subject), is_route, &subject, sender, &index))
        return sender->routes[index];
    struct route **routes =
        realloc(sender->routes, (sender->route_count + 1) * sizeof(struct route *));
    if (!routes) return NULL;
    sender->routes = routes;
    struct route *route = calloc(1, sizeof(*route) + subject.size + 1);
    if (!route) return NULL;
    if (q_map_put(&sender->map, hash_name(subject), sender->route_count) != Q_OK) {
        free(route);
        return NULL;
    }
    memcpy(route->name, subject.data, subject.size);
    q_list_init(&route->wanted);
    sender->routes[sender->route_count++] = route;
    return route;
}

static const char *
on_route(void *context, struct q_bytes subject, unsigned index)
{
    struct delay_sender *sender = context;
    const char *answer = NULL;
    pthread_mutex_lock(&sender->lock);
    struct route *route = get_route(sender, subject);
    if (route) {
        bool is_old =
            route->told_ns == 0 || now_ns() - route->told_ns > (uint64_t)ROUTE_AGE_MS * Q_NS_PER_MS;
        if (index == 0 && is_old && !q_list_is_linked(&route->wanted)) {
            q_list_push_back(&sender->wanted, &route->wanted);
            pthread_cond_signal(&sender->changed);
        }
        if (index < route->count) {
            memcpy(sender->answer, route->groups[index], sizeof(sender->answer));
            answer = sender->answer;
        }
    }
    pthread_mutex_unlock(&sender->lock);
    return answer;
}

/* --- Sending. */

static void
on_send(void *context, struct qlog_delay_send *send)
{
    struct delay_sender *sender = context;
    enum q_err err = Q_UNAVAILABLE;
    pthread_mutex_lock(&sender->lock);
    struct target *target = find_target(sender, send->broker_group);
    if (atomic_load(&sender->stopping))
        err = Q_STOPPING;
    else if (target && target->caller)
        err = send_to(sender, target, send);
    struct qlog_delay *store = sender->store;
    pthread_mutex_unlock(&sender->lock);
    if (err == Q_OK) return;
    note_outcome(sender, send->broker_group, err);
    qlog_delay_sent(store, send, err);
}

static enum q_err
send_to(struct delay_sender *sender, struct target *target, struct qlog_delay_send *send)
{
    struct flight *flight = calloc(1, sizeof(*flight));
    if (!flight) return Q_FAIL(Q_E_NOMEM);
    flight->sender = sender;
    flight->send = send;
    memcpy(flight->group, target->name, sizeof(flight->group));
    flight->net = (struct qnet_request){
        .timeout_ms = SEND_TIMEOUT_MS,
        .done = on_published,
        .context = flight,
    };
    enum q_err err = build(send, &flight->net.buffer);
    if (err == Q_OK) {
        err = qnet_caller_submit(target->caller, &flight->net);
        if (err != Q_OK) qnet_buffer_free(flight->net.buffer);
    }
    if (err != Q_OK) free(flight);
    return err;
}

static enum q_err
build(const struct qlog_delay_send *send, struct qnet_buffer **ret_buffer)
{
    Qmq__Wire__PublishRequest header = QMQ__WIRE__PUBLISH_REQUEST__INIT;
    /* Names are counted bytes in the store, and texts on the wire. */
    size_t names_size = 0;
    for (uint32_t i = 0; i < send->batch_count; i++)
        names_size += send->subjects[i].size + 1;
    char **subjects = malloc(send->batch_count * sizeof(char *) + names_size);
    if (!subjects) return Q_FAIL(Q_E_NOMEM);
    char *name = (char *)(subjects + send->batch_count);
    for (uint32_t i = 0; i < send->batch_count; i++) {
        memcpy(name, send->subjects[i].data, send->subjects[i].size);
        name[send->subjects[i].size] = '\0';
        subjects[i] = name;
        name += send->subjects[i].size + 1;
    }
    header.n_subjects = send->batch_count;
    header.subjects = subjects;
    header.envelopes_length = send->envelopes_size;
    header.settled_below = send->settled;
    /* It is forgotten here when it is stored there. */
    header.mode = QLOG_MODE_SYNC;
    header.again = send->again;
    size_t payload_size = (size_t)send->envelopes_size + send->payloads_size;
    enum q_err err = qnet_buffer_new(qproto_size(&header.base, payload_size), ret_buffer);
    if (err == Q_OK) {
        uint8_t *to = qproto_write(
            qnet_buffer_data(*ret_buffer), QPROTO_PUBLISH, 0, &header.base, payload_size);
        memcpy(to, send->envelopes, send->envelopes_size);
        memcpy(to + send->envelopes_size, send->payloads, send->payloads_size);
    }
    free(subjects);
    return err;
}

static void
on_published(struct qnet_request *net, enum q_err err, struct qnet_buffer *buffer)
{
    struct flight *flight = net->context;
    struct delay_sender *sender = flight->sender;
    if (err == Q_OK) err = read_published(buffer);
    note_outcome(sender, flight->group, err);
    qlog_delay_sent(sender->store, flight->send, err);
    free(flight);
}

/* Takes the buffer. */
static enum q_err
read_published(struct qnet_buffer *buffer)
{
    struct qproto_message message;
    enum q_err err =
        qproto_parse(q_bytes_from(qnet_buffer_data(buffer), qnet_buffer_size(buffer)), &message);
    if (err == Q_OK && message.status != 0) err = qproto_error_read(message.header);
    if (err == Q_OK && message.op != QPROTO_PUBLISH)
        err = Q_FAIL(Q_E_PROTOCOL, .what = "the answer to a publish is none");
    qnet_buffer_free(buffer);
    return err;
}

/* A line when it changes: what could not be stored is tried again for ever. */
static void
note_outcome(struct delay_sender *sender, const char *group, enum q_err err)
{
    struct q_fault fault = *q_fault_last();
    if (fault.err != err) fault = (struct q_fault){ .err = err, .position = Q_POSITION_NONE };
    pthread_mutex_lock(&sender->lock);
    struct target *target = find_target(sender, group);
    bool is_news = target && target->is_away != (err != Q_OK);
    if (target) target->is_away = err != Q_OK;
    pthread_mutex_unlock(&sender->lock);
    if (!is_news || err == Q_STOPPING) return;
    if (err == Q_OK)
        srv_log(SRV_DELAY_GROUP_BACK, "broker_group=%s", srv_quote(group));
    else
        srv_log(
            SRV_DELAY_GROUP_AWAY, "broker_group=%s %s", srv_quote(group), srv_fault_keys(&fault));
}

/* --- Asking meta. */

static void *
sender_main(void *argument)
{
    struct delay_sender *sender = argument;
    (void)pthread_setname_np(pthread_self(), "qmq-routes");
    uint64_t groups_ns = 0;
    while (!atomic_load(&sender->stopping)) {
        char name[QPROTO_SUBJECT_MAX + 1] = "";
        pthread_mutex_lock(&sender->lock);
        struct q_list *link = q_list_pop_front(&sender->wanted);
        if (!link && now_ns() < groups_ns && !atomic_load(&sender->stopping)) {
            struct timespec until = {
                .tv_sec = (time_t)(groups_ns / Q_NS_PER_S),
                .tv_nsec = (long)(groups_ns % Q_NS_PER_S),
            };
            (void)pthread_cond_timedwait(&sender->changed, &sender->lock, &until);
            link = q_list_pop_front(&sender->wanted);
        }
        struct route *route = link ? q_container_of(link, struct route, wanted) : NULL;
        if (route) (void)snprintf(name, sizeof(name), "%s", route->name);
        pthread_mutex_unlock(&sender->lock);
        if (atomic_load(&sender->stopping)) break;
        if (route) ask(sender, name);
        if (now_ns() < groups_ns) continue;
        ask(sender, "");
        groups_ns = now_ns() + (uint64_t)GROUPS_AGE_MS * Q_NS_PER_MS;
    }
    return NULL;
}

/* While meta is away nothing is learned, and what is known stays. */
static void
ask(struct delay_sender *sender, const char *subject)
{
    Qmq__Wire__RouteRequest request = QMQ__WIRE__ROUTE_REQUEST__INIT;
    request.subject = (char *)subject;
    request.assign = *subject != '\0';
    struct qnet_buffer *buffer;
    if (qnet_buffer_new(qproto_size(&request.base, 0), &buffer) != Q_OK) return;
    qproto_write(qnet_buffer_data(buffer), QPROTO_META_ROUTE, 0, &request.base, 0);
    struct qnet_buffer *answer;
    if (qnet_caller_call(sender->meta, buffer, META_TIMEOUT_MS, &answer) != Q_OK) return;

    struct qproto_arena *arena = malloc(sizeof(*arena));
    struct qproto_message message;
    Qmq__Wire__RouteAnswer *route;
    enum q_err err = arena ? Q_OK : Q_E_NOMEM;
    if (arena) qproto_arena_init(arena);
    if (err == Q_OK)
        err = qproto_parse(
            q_bytes_from(qnet_buffer_data(answer), qnet_buffer_size(answer)), &message);
    if (err == Q_OK && message.status == 0 &&
        QPROTO_UNPACK(message.header, route_answer, arena, &route) == Q_OK)
        learn(sender, subject, route);
    if (arena) qproto_arena_reset(arena);
    free(arena);
    qnet_buffer_free(answer);
}

static void
learn(struct delay_sender *sender, const char *subject, const Qmq__Wire__RouteAnswer *answer)
{
    for (size_t i = 0; i < answer->n_groups; i++) {
        const Qmq__Wire__RouteGroup *group = answer->groups[i];
        bool is_broker = *group->role == '\0' || strcmp(group->role, "broker") == 0;
        if (is_broker && strlen(group->broker_group) <= QPROTO_GROUP_MAX)
            move_target(sender, group);
    }
    bool is_new = false;
    pthread_mutex_lock(&sender->lock);
    struct route *route = *subject ? get_route(sender, q_bytes_from_text(subject)) : NULL;
    if (route) {
        unsigned count = 0;
        for (size_t i = 0; i < answer->n_groups && count < ROUTE_GROUPS_MAX; i++) {
            const Qmq__Wire__RouteGroup *group = answer->groups[i];
            if (!group->writable || strlen(group->broker_group) > QPROTO_GROUP_MAX) continue;
            is_new = is_new || count >= route->count ||
                     strcmp(route->groups[count], group->broker_group) != 0;
            (void)snprintf(
                route->groups[count++], sizeof(route->groups[0]), "%s", group->broker_group);
        }
        route->count = count;
        route->told_ns = now_ns();
    }
    struct qlog_delay *store = sender->store;
    pthread_mutex_unlock(&sender->lock);
    if (is_new && store) qlog_delay_wake(store);
}

static struct target *
find_target(struct delay_sender *sender, const char *group)
{
    q_list_for_each(link, &sender->targets) {
        struct target *target = q_container_of(link, struct target, link);
        if (strcmp(target->name, group) == 0) return target;
    }
    return NULL;
}

/* A group is somewhere, or somewhere else than before. On the thread that asks. */
static void
move_target(struct delay_sender *sender, const Qmq__Wire__RouteGroup *group)
{
    pthread_mutex_lock(&sender->lock);
    struct target *target = find_target(sender, group->broker_group);
    bool is_there = target && target->address && strcmp(target->address, group->address) == 0;
    pthread_mutex_unlock(&sender->lock);
    if (is_there) return;

    const struct qnet_caller_options options = { .url = group->address };
    struct qnet_caller *caller = NULL;
    char *address = strdup(group->address);
    if (!address || qnet_caller_new(&options, &caller) != Q_OK) {
        free(address);
        return;
    }
    if (!target) {
        target = calloc(1, sizeof(*target));
        if (!target) {
            qnet_caller_free(caller);
            free(address);
            return;
        }
        (void)snprintf(target->name, sizeof(target->name), "%s", group->broker_group);
        q_list_init(&target->link);
    }
    pthread_mutex_lock(&sender->lock);
    struct qnet_caller *old_caller = target->caller;
    char *old_address = target->address;
    target->caller = caller;
    target->address = address;
    if (!q_list_is_linked(&target->link)) q_list_push_back(&sender->targets, &target->link);
    struct qlog_delay *store = sender->store;
    pthread_mutex_unlock(&sender->lock);
    qnet_caller_free(old_caller);
    free(old_address);
    if (store) qlog_delay_wake(store);
}
