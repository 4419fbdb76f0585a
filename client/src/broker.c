/*
 * broker.c: broker groups, where subjects are served, and calls to wherever a group is now.
 */
#include <stdlib.h>

#include "client.h"

#define ROLE_BROKER "broker"
#define ROLE_DELAY  "delay"

static enum q_err get_broker(
    struct qmq_client *client, const Qmq__Wire__RouteGroup *group, struct broker **ret_broker);
static enum q_err read_homes(
    struct qmq_client *client, const Qmq__Wire__RouteAnswer *route, struct route *ret_route);
static enum q_err name_broker(
    struct qmq_client *client, const char *group, struct broker **ret_broker);
static struct broker *find_broker(struct qmq_client *client, const char *group);
static struct broker *broker_new(struct qmq_client *client, const char *group);
static enum q_err broker_move(struct broker *broker, const char *address, const char *one_way);
static bool is_text(const char *text, const char *wanted);
static enum q_err retire(struct qmq_client *client, struct broker *broker);
static bool is_broker(const Qmq__Wire__RouteGroup *group);
static const char *address_of(const struct broker *broker, enum broker_link which);
static enum q_err fail_without_address(const struct broker *broker);

enum q_err
route_build(const char *subject, struct qnet_buffer **ret_buffer)
{
    Qmq__Wire__RouteRequest route = QMQ__WIRE__ROUTE_REQUEST__INIT;
    route.subject = (char *)subject;
    route.assign = *subject != '\0';
    return call_build(QPROTO_META_ROUTE, &route.base, 0, ret_buffer, NULL);
}

enum q_err
route_read(struct qmq_client *client, struct qnet_buffer *buffer, struct route *ret_route)
{
    struct answer answer;
    Q_TRY(answer_open(&answer, buffer, QPROTO_META_ROUTE));

    const Qmq__Wire__RouteAnswer *route = (const Qmq__Wire__RouteAnswer *)answer.header;
    enum q_err err = Q_OK;
    ret_route->count = 0;
    for (size_t index = 0; index < route->n_groups && err == Q_OK; index++) {
        const Qmq__Wire__RouteGroup *group = route->groups[index];
        if (!is_broker(group) || ret_route->count == ROUTE_GROUPS_MAX) continue;
        ret_route->is_writable[ret_route->count] = group->writable;
        ret_route->takes_one_way[ret_route->count] = group->one_way_address[0] != '\0';
        err = get_broker(client, group, &ret_route->brokers[ret_route->count]);
        if (err == Q_OK) ret_route->count++;
    }
    if (err == Q_OK) err = read_homes(client, route, ret_route);
    if (err == Q_OK && ret_route->count == 0)
        err = Q_FAIL(
            Q_NO_ROUTE,
            .what = q_text("meta %s knows no broker group that is alive", client->meta_url));
    answer_close(&answer);
    return err;
}

static enum q_err
read_homes(struct qmq_client *client, const Qmq__Wire__RouteAnswer *route, struct route *ret_route)
{
    uint32_t until = 0;
    ret_route->home_count = 0;
    for (size_t index = 0; index < route->n_slots; index++) {
        const Qmq__Wire__RouteSlots *slots = route->slots[index];
        if (slots->until <= until || slots->until > ROUTE_SLOTS || index == ROUTE_GROUPS_MAX)
            return Q_FAIL(Q_E_PROTOCOL, .what = "the slots of order keys overlap, or are too many");
        until = ret_route->homes[index].until = slots->until;
        Q_TRY(name_broker(client, slots->broker_group, &ret_route->homes[index].broker));
        ret_route->home_count++;
    }
    if (until == ROUTE_SLOTS || until == 0) return Q_OK;
    return Q_FAIL(Q_E_PROTOCOL, .what = q_text("slots from %u on have no home", until));
}

enum q_err
route_find(
    struct qmq_client *client, const char *subject, uint64_t timeout_ms, struct route *ret_route)
{
    struct qnet_buffer *buffer;
    Q_TRY(client_check(client));
    Q_TRY(route_build(subject, &buffer));
    struct call_waiter waiter;
    call_waiter_init(&waiter, buffer, timeout_ms);
    Q_TRY(call_wait(&waiter, link_submit(client->meta, &waiter.call), &buffer));
    return route_read(client, buffer, ret_route);
}

enum q_err
route_check_one_way(const struct route *route)
{
    for (uint32_t index = 0; index < route->count; index++)
        if (route->takes_one_way[index]) return Q_OK;
    return Q_FAIL(
        Q_UNAVAILABLE,
        .what = q_text("none of %u broker groups takes one-way messages", route->count),
        .hint = "start brokers without --one-way none; brokers and meta must be of this version");
}

enum q_err
route_narrow(struct route *route, const char *broker_group)
{
    if (!broker_group) return Q_OK;
    for (uint32_t index = 0; index < route->count; index++) {
        if (strcmp(route->brokers[index]->group, broker_group) != 0) continue;
        route->brokers[0] = route->brokers[index];
        route->is_writable[0] = route->is_writable[index];
        route->takes_one_way[0] = route->takes_one_way[index];
        route->count = 1;
        return Q_OK;
    }
    return Q_FAIL(
        Q_NOT_FOUND, .what = q_text(
                         "\"%s\" is none of the %u broker groups that are alive here", broker_group,
                         route->count));
}

void
brokers_update(struct qmq_client *client, const Qmq__Wire__RouteAnswer *route)
{
    pthread_mutex_lock(&client->lock);
    q_list_for_each(node, &client->brokers) {
        struct broker *broker = q_container_of(node, struct broker, node);
        broker->comes_listed = false;
        broker->comes_writable = false;
    }
    pthread_mutex_unlock(&client->lock);

    for (size_t index = 0; index < route->n_groups; index++) {
        const Qmq__Wire__RouteGroup *group = route->groups[index];
        struct broker *broker;
        /* Without memory for one it is not listed; the next answer brings it again. */
        if (!is_broker(group) || get_broker(client, group, &broker) != Q_OK) continue;
        broker->comes_listed = true;
        broker->comes_writable = group->writable;
    }

    /* At once: whoever looks in between would take those that are yet to come for dead. */
    pthread_mutex_lock(&client->lock);
    q_list_for_each(node, &client->brokers) {
        struct broker *broker = q_container_of(node, struct broker, node);
        broker->is_listed = broker->comes_listed;
        broker->is_writable = broker->comes_writable;
    }
    client->route_changes++;
    pthread_mutex_unlock(&client->lock);
}

static bool
is_broker(const Qmq__Wire__RouteGroup *group)
{
    /* Delay groups are told only to who asks for them. */
    return strcmp(group->role, ROLE_BROKER) == 0 || strcmp(group->role, ROLE_DELAY) == 0 ||
           group->role[0] == '\0';
}

static enum q_err
get_broker(
    struct qmq_client *client, const Qmq__Wire__RouteGroup *group, struct broker **ret_broker)
{
    struct broker *broker;
    Q_TRY(name_broker(client, group->broker_group, &broker));
    Q_TRY(broker_move(broker, group->address, group->one_way_address));
    *ret_broker = broker;
    return Q_OK;
}

/* Wherever it is. */
static enum q_err
name_broker(struct qmq_client *client, const char *group, struct broker **ret_broker)
{
    Q_TRY(qproto_check_name("broker group", group, QPROTO_GROUP_MAX));

    pthread_mutex_lock(&client->lock);
    struct broker *broker = find_broker(client, group);
    if (!broker) broker = broker_new(client, group);
    pthread_mutex_unlock(&client->lock);

    if (!broker) return Q_FAIL(Q_E_NOMEM);
    *ret_broker = broker;
    return Q_OK;
}

static struct broker *
find_broker(struct qmq_client *client, const char *group)
{
    q_list_for_each(node, &client->brokers) {
        struct broker *broker = q_container_of(node, struct broker, node);
        if (strcmp(broker->group, group) == 0) return broker;
    }
    return NULL;
}

static struct broker *
broker_new(struct qmq_client *client, const char *group)
{
    struct broker *broker = calloc(1, sizeof(*broker));
    if (!broker) return NULL;
    broker->client = client;
    broker->number = client->broker_count++;
    memcpy(broker->group, group, strlen(group) + 1);
    pthread_mutex_init(&broker->lock, NULL);
    q_list_push_back(&client->brokers, &broker->node);
    return broker;
}

static enum q_err
broker_move(struct broker *broker, const char *address, const char *one_way)
{
    enum q_err err = Q_OK;

    pthread_mutex_lock(&broker->lock);
    if (!is_text(broker->address, address) || !is_text(broker->one_way, one_way)) {
        char *copies[] = { strdup(address), strdup(one_way) };
        err = copies[0] && copies[1] ? retire(broker->client, broker) : Q_FAIL(Q_E_NOMEM);
        char *obsolete[] = { broker->address, broker->one_way };
        if (err == Q_OK) {
            broker->address = copies[0];
            broker->one_way = copies[1];
        }
        for (unsigned index = 0; index < 2; index++)
            free(err == Q_OK ? obsolete[index] : copies[index]);
    }
    pthread_mutex_unlock(&broker->lock);
    return err;
}

/* `text` may be NULL. */
static bool
is_text(const char *text, const char *wanted)
{
    return text && strcmp(text, wanted) == 0;
}

/* Hand the broker's links to the client's thread: closing one waits for its calls to end. */
static enum q_err
retire(struct qmq_client *client, struct broker *broker)
{
    enum {
        LINKS = sizeof(broker->links) / sizeof(broker->links[0])
    };

    pthread_mutex_lock(&client->lock);
    size_t size = (client->retired_count + LINKS) * sizeof(struct link *);
    struct link **grown = realloc(client->retired, size);
    if (grown) {
        client->retired = grown;
        for (unsigned which = 0; which < LINKS; which++) {
            if (broker->links[which]) grown[client->retired_count++] = broker->links[which];
            broker->links[which] = NULL;
        }
    }
    pthread_mutex_unlock(&client->lock);
    return grown ? Q_OK : Q_FAIL(Q_E_NOMEM);
}

void
brokers_free(struct qmq_client *client)
{
    q_list_for_each_safe(node, &client->brokers) {
        struct broker *broker = q_container_of(node, struct broker, node);
        link_close(broker->links[BROKER_CALLS]);
        link_close(broker->links[BROKER_BULK]);
        link_close(broker->links[BROKER_ONE_WAY]);
        pthread_mutex_destroy(&broker->lock);
        free(broker->address);
        free(broker->one_way);
        free(broker);
    }
}

bool
client_has_several(struct qmq_client *client)
{
    uint32_t count = 0;

    pthread_mutex_lock(&client->lock);
    q_list_for_each(node, &client->brokers) {
        count += q_container_of(node, struct broker, node)->is_writable;
    }
    pthread_mutex_unlock(&client->lock);
    return count > 1;
}

enum q_err
broker_submit(struct broker *broker, enum broker_link which, struct call *call)
{
    enum q_err err = Q_OK;

    pthread_mutex_lock(&broker->lock);
    const char *address = address_of(broker, which);
    if (!address)
        err = fail_without_address(broker);
    else if (!broker->links[which])
        err = link_open(
            address, broker->client->program, &broker->client->hooks, &broker->links[which]);
    if (err == Q_OK)
        err = link_submit(broker->links[which], call);
    else
        qnet_buffer_free(call->net.buffer);
    pthread_mutex_unlock(&broker->lock);
    return err;
}

/* NULL: there is none. */
static const char *
address_of(const struct broker *broker, enum broker_link which)
{
    const char *address = which == BROKER_ONE_WAY ? broker->one_way : broker->address;
    return address && *address ? address : NULL;
}

static enum q_err
fail_without_address(const struct broker *broker)
{
    if (!broker->address)
        return Q_FAIL(
            Q_UNAVAILABLE, .what = q_text("where broker group %s is, is not known", broker->group));
    return Q_FAIL(
        Q_UNAVAILABLE, .what = q_text("broker group %s takes no one-way messages", broker->group),
        .hint = "start it without --one-way none; it and meta must be of this version");
}

enum q_err
broker_check_link(struct broker *broker, enum broker_link which)
{
    enum q_err err = Q_OK;

    pthread_mutex_lock(&broker->lock);
    struct link *link = broker->links[which];
    const char *address = address_of(broker, which);
    if (!address)
        err = fail_without_address(broker);
    else if (link && link_is_lost(link))
        err = Q_FAIL(
            Q_UNAVAILABLE, .path = address,
            .what = q_text("broker group %s is away", broker->group));
    pthread_mutex_unlock(&broker->lock);
    return err;
}

enum q_err
broker_call(
    struct broker *broker,
    unsigned op,
    const ProtobufCMessage *header,
    uint64_t timeout_ms,
    struct answer *ret_answer)
{
    struct qnet_buffer *buffer;
    Q_TRY(client_check(broker->client));
    Q_TRY(call_build(op, header, 0, &buffer, NULL));

    struct call_waiter waiter;
    call_waiter_init(&waiter, buffer, timeout_ms);
    enum q_err err = broker_submit(broker, BROKER_CALLS, &waiter.call);
    Q_TRY(call_wait(&waiter, err, &buffer));
    return answer_open(ret_answer, buffer, op);
}

enum q_err
brokers_ask(struct qmq_client *client, const char *broker_group, broker_ask_fn *ask, void *context)
{
    struct route route;
    Q_TRY(route_find(client, "", client->timeout_ms, &route));
    Q_TRY(route_narrow(&route, broker_group));

    enum q_err failure = Q_OK;
    struct q_fault fault = { .err = Q_OK };
    bool is_known = false;
    for (uint32_t index = 0; index < route.count; index++) {
        enum q_err err = ask(route.brokers[index], context);
        is_known |= err == Q_OK;
        bool is_worse = failure == Q_OK || (failure == Q_NOT_FOUND && err != Q_NOT_FOUND);
        if (err == Q_OK || !is_worse) continue;
        failure = err;
        fault = *q_fault_last();
    }
    if (failure == Q_OK || (failure == Q_NOT_FOUND && is_known)) return Q_OK;
    q_fault_adopt(&fault);
    return failure;
}
