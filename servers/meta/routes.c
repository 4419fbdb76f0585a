/*
 * routes.c: assignment and lookup.
 */
#include "meta/routes.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"

/* Before the name of a broker group that is no home of slots. */
#define NO_HOME "+"

enum {
    ATTEMPTS_MAX = 8, /* against other meta servers that assign at the same moment */
};

/* What is stored for a subject. */
struct assignment {
    char names[META_ASSIGNMENT_MAX]; /* "g1\ng2\n+g3\n" */
    uint64_t version;
};

static enum q_err find_assigned(
    struct meta_nodes *nodes,
    const char *subject,
    bool assign,
    struct assignment *ret_assignment,
    bool *ret_assigned_now);
static bool is_waking(const struct meta_nodes *nodes);
static void tell_homes(const struct assignment *assignment, struct meta_route *ret_route);
static enum q_err read_assignment(
    struct meta_nodes *nodes, const char *key, struct assignment *ret_assignment);
static bool extend(
    const struct meta_nodes *nodes, const char *subject, struct assignment *assignment);
static const struct meta_node *choose(
    const struct meta_nodes *nodes, const char *subject, const struct assignment *assignment);
static bool has_role(const struct meta_node *node, const char *role);
static bool is_in(const struct assignment *assignment, const char *broker_group);
static unsigned count_names(const struct assignment *assignment);
static uint64_t route_version(const struct meta_route *route);
static uint64_t hash_text(uint64_t hash, const char *text);

enum q_err
meta_route_find(
    struct meta_nodes *nodes, const char *subject, bool assign, struct meta_route *ret_route)
{
    struct assignment assignment = { .version = 0 };
    bool is_delay = strcmp(subject, META_DELAY_GROUPS) == 0;
    bool is_all = !*subject || is_delay;
    ret_route->assigned_now = false;
    if (!is_all)
        Q_TRY(find_assigned(nodes, subject, assign, &assignment, &ret_route->assigned_now));

    tell_homes(&assignment, ret_route);
    ret_route->group_count = 0;
    meta_nodes_for_each(at, nodes)
    {
        const struct meta_node *node = meta_node_of(at);
        if (!has_role(node, is_delay ? "delay" : "broker") || !node->alive) continue;
        if (!is_all && !is_in(&assignment, node->record->broker_group)) continue;
        if (ret_route->group_count == META_ROUTE_GROUPS_MAX) break;
        ret_route->groups[ret_route->group_count++] = node;
    }
    ret_route->version = route_version(ret_route);
    return Q_OK;
}

static void
tell_homes(const struct assignment *assignment, struct meta_route *ret_route)
{
    char *rest = memcpy(ret_route->names, assignment->names, sizeof(ret_route->names));
    ret_route->home_count = 0;
    for (char *name; (name = strsep(&rest, "\n")) && *name;)
        if (*name != *NO_HOME && ret_route->home_count < META_ROUTE_GROUPS_MAX)
            ret_route->homes[ret_route->home_count++] = name;
}

uint32_t
meta_route_slots_until(const struct meta_route *route, size_t index)
{
    return (uint32_t)(META_SLOTS * (index + 1) / route->home_count);
}

static enum q_err
find_assigned(
    struct meta_nodes *nodes,
    const char *subject,
    bool assign,
    struct assignment *ret_assignment,
    bool *ret_assigned_now)
{
    char key[META_KEY_MAX];
    (void)snprintf(key, sizeof(key), "subjects/%s", subject);

    enum q_err err = Q_CONFLICT;
    for (int attempt = 0; err == Q_CONFLICT && attempt < ATTEMPTS_MAX; attempt++) {
        Q_TRY(read_assignment(nodes, key, ret_assignment));
        if (!assign || is_waking(nodes) || !extend(nodes, subject, ret_assignment)) return Q_OK;
        err = meta_compare_and_set(
            nodes->store, key, ret_assignment->version, q_bytes_from_text(ret_assignment->names),
            &ret_assignment->version);
    }
    if (err != Q_OK) return err;

    *ret_assigned_now = true;
    srv_log(
        SRV_META_SUBJECT_ASSIGNED, "subject=%s groups=%s", subject,
        srv_quote(ret_assignment->names));
    return Q_OK;
}

/*
 * A home is for ever. So none is given while a broker that is taken for alive may be dead, nor only to
 * those that were heard from first: the time of one expiry after a start of meta at most.
 */
static bool
is_waking(const struct meta_nodes *nodes)
{
    meta_nodes_for_each(at, nodes)
    {
        const struct meta_node *node = meta_node_of(at);
        if (has_role(node, "broker") && node->alive && node->is_presumed) return true;
    }
    return false;
}

static enum q_err
read_assignment(struct meta_nodes *nodes, const char *key, struct assignment *ret_assignment)
{
    *ret_assignment = (struct assignment){ .version = 0 };
    struct q_bytes value;
    enum q_err err = meta_get(nodes->store, key, &value, &ret_assignment->version);
    if (err == Q_NOT_FOUND) return Q_OK;
    if (err != Q_OK) return err;
    if (value.size >= sizeof(ret_assignment->names))
        return Q_FAIL(Q_E_CORRUPT, .what = q_text("%s holds %zu bytes", key, value.size));
    memcpy(ret_assignment->names, value.data, value.size);
    return Q_OK;
}

/* True when names were added. Slots have their homes from the first time on. */
static bool
extend(const struct meta_nodes *nodes, const char *subject, struct assignment *assignment)
{
    bool has_grown = false;
    bool has_homes = *assignment->names != '\0';
    while (count_names(assignment) < META_GROUPS_MIN) {
        const struct meta_node *node = choose(nodes, subject, assignment);
        if (!node) break;
        size_t at = strlen(assignment->names);
        (void)snprintf(
            assignment->names + at, sizeof(assignment->names) - at, "%s%s\n",
            has_homes ? NO_HOME : "", node->record->broker_group);
        has_grown = true;
    }
    return has_grown;
}

/* The heaviest of those that can take messages now and are not in yet; NULL: none is left. */
static const struct meta_node *
choose(const struct meta_nodes *nodes, const char *subject, const struct assignment *assignment)
{
    const struct meta_node *chosen = NULL;
    uint64_t chosen_weight = 0;
    meta_nodes_for_each(at, nodes)
    {
        const struct meta_node *node = meta_node_of(at);
        if (!has_role(node, "broker") || !node->alive || node->record->read_only) continue;
        if (is_in(assignment, node->record->broker_group)) continue;

        uint64_t weight = hash_text(hash_text(0, subject), node->record->broker_group);
        if (chosen && weight <= chosen_weight) continue;
        chosen = node;
        chosen_weight = weight;
    }
    return chosen;
}

static bool
has_role(const struct meta_node *node, const char *role)
{
    return node->record && strcmp(node->record->role, role) == 0;
}

static bool
is_in(const struct assignment *assignment, const char *broker_group)
{
    size_t length = strlen(broker_group);
    const char *at = assignment->names;
    while (*at) {
        at += *at == *NO_HOME;
        size_t name_length = strcspn(at, "\n");
        if (name_length == length && memcmp(at, broker_group, length) == 0) return true;
        at += name_length + (at[name_length] == '\n');
    }
    return false;
}

static unsigned
count_names(const struct assignment *assignment)
{
    unsigned count = 0;
    for (const char *at = assignment->names; *at; at++) {
        count += *at == '\n';
    }
    return count;
}

static uint64_t
route_version(const struct meta_route *route)
{
    /* A sum, since the order in which nodes became known says nothing. */
    uint64_t sum = 1;
    for (size_t i = 0; i < route->group_count; i++) {
        const Qmq__Wire__NodeRecord *record = route->groups[i]->record;
        uint64_t hash = hash_text(0, record->broker_group);
        hash = hash_text(hash, record->node_id);
        hash = hash_text(hash, record->address);
        if (*record->one_way_address) hash = hash_text(hash, record->one_way_address);
        sum += hash_text(hash, record->read_only ? "read-only" : "writable");
    }
    uint64_t homes = 0;
    for (size_t i = 0; i < route->home_count; i++)
        homes = hash_text(homes, route->homes[i]);
    sum += homes;
    return sum ? sum : 1;
}

/* FNV-1a, its end included, then mixed: the weights of similar names must not be similar. */
static uint64_t
hash_text(uint64_t hash, const char *text)
{
    hash ^= 0xcbf29ce484222325u;
    do {
        hash = (hash ^ (uint8_t)*text) * 0x100000001b3u;
    } while (*text++);
    hash ^= hash >> 33;
    hash *= 0xff51afd7ed558ccdu;
    return hash ^ (hash >> 33);
}
