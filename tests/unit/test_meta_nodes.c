/*
 * test_meta_nodes.c: who is in the cluster, who is alive, and who serves what.
 */
#include <meta/routes.h>

#include <common/log.h>

#include "test_servers_common.h"

static struct q_clock_manual manual;
static struct meta_store *store;
static struct meta_nodes nodes;

static void
open_all(void)
{
    cr_assert_eq(meta_sqlite_open(test_path("meta.db"), &manual.clock, &store), Q_OK);
    cr_assert_eq(meta_nodes_init(&nodes, store, &manual.clock), Q_OK);
}

static void
close_all(void)
{
    meta_nodes_fini(&nodes);
    meta_close(store);
}

static void
set_up(void)
{
    srv_log_set_level(SRV_ERROR);
    test_directory_make();
    q_clock_manual_init(&manual);
    /* Not at the beginning of time: 0 means never. */
    q_clock_manual_advance_ns(&manual, Q_NS_PER_S);
    open_all();
}

static void
tear_down(void)
{
    close_all();
    test_directory_remove();
}

TestSuite(meta_nodes, .init = set_up, .fini = tear_down);

static enum q_err
register_at(const char *node_id, const char *group, const char *address)
{
    Qmq__Wire__NodeRecord record = QMQ__WIRE__NODE_RECORD__INIT;
    record.node_id = (char *)node_id;
    record.cluster = (char *)"default";
    record.broker_group = (char *)group;
    record.role = (char *)"broker";
    record.address = (char *)address;
    record.version = (char *)"0.1.0";
    return meta_nodes_register(&nodes, &record);
}

static enum q_err
say_alive(const char *node_id, const char *group)
{
    return register_at(node_id, group, q_text("tcp://10.0.0.1:%s", node_id));
}

static void
pass_ms(uint64_t ms)
{
    q_clock_manual_advance_ns(&manual, ms * Q_NS_PER_MS);
    meta_turn(store);
}

static size_t
count_alive(void)
{
    size_t count = 0;
    meta_nodes_for_each(at, &nodes)
    {
        count += meta_node_of(at)->alive;
    }
    return count;
}

/* The names of a route's groups, sorted, "g1 g2 ". */
static const char *
route_text(const char *subject, bool assign)
{
    static char text[1000];
    struct meta_route route;
    cr_assert_eq(meta_route_find(&nodes, subject, assign, &route), Q_OK);
    text[0] = '\0';
    for (char name = 'a'; name <= 'z'; name++) {
        for (size_t i = 0; i < route.group_count; i++) {
            const char *group = route.groups[i]->record->broker_group;
            if (group[0] != name) continue;
            size_t at = strlen(text);
            (void)snprintf(text + at, sizeof(text) - at, "%s ", group);
        }
    }
    return text;
}

static uint64_t
route_version(const char *subject)
{
    struct meta_route route;
    cr_assert_eq(meta_route_find(&nodes, subject, false, &route), Q_OK);
    cr_expect_neq(route.version, 0);
    return route.version;
}

/* Two brokers register by themselves, and a route lists both. */
Test(meta_nodes, a_route_lists_both_brokers)
{
    cr_expect_eq(say_alive("1", "a"), Q_OK);
    cr_expect_eq(say_alive("2", "b"), Q_OK);
    cr_expect_str_eq(route_text("orders", true), "a b ");
    cr_expect_str_eq(route_text("", false), "a b ");
}

/* A broker without a sign of life for the expiry leaves the routes; with one it is back. */
Test(meta_nodes, a_dead_broker_leaves_the_routes)
{
    cr_expect_eq(say_alive("1", "a"), Q_OK);
    cr_expect_eq(say_alive("2", "b"), Q_OK);
    cr_expect_str_eq(route_text("orders", true), "a b ");
    uint64_t version = route_version("orders");

    for (int i = 0; i < 4; i++) {
        pass_ms(META_HEARTBEAT_MS);
        cr_expect_eq(say_alive("1", "a"), Q_OK);
    }
    cr_expect_str_eq(route_text("orders", true), "a ");
    cr_expect_neq(route_version("orders"), version);
    cr_expect_eq(count_alive(), 1);

    cr_expect_eq(say_alive("2", "b"), Q_OK);
    cr_expect_str_eq(route_text("orders", false), "a b ");
    cr_expect_eq(route_version("orders"), version, "the same route has the same version");
}

/* Without the expiry being over nothing changes: a late heart-beat is no death. */
Test(meta_nodes, a_late_heartbeat_is_in_time)
{
    cr_expect_eq(say_alive("1", "a"), Q_OK);
    uint64_t changes = nodes.changes;
    for (int i = 0; i < 5; i++) {
        pass_ms(META_EXPIRY_MS - 1);
        cr_expect_eq(say_alive("1", "a"), Q_OK);
    }
    cr_expect_eq(nodes.changes, changes);
}

/* A heart-beat that says nothing new writes nothing. */
Test(meta_nodes, heartbeats_write_nothing)
{
    cr_expect_eq(say_alive("1", "a"), Q_OK);
    struct q_bytes value;
    uint64_t version;
    cr_assert_eq(meta_get(store, "nodes/1", &value, &version), Q_OK);
    for (int i = 0; i < 100; i++) {
        pass_ms(META_HEARTBEAT_MS);
        cr_expect_eq(say_alive("1", "a"), Q_OK);
    }
    uint64_t later;
    cr_assert_eq(meta_get(store, "nodes/1", &value, &later), Q_OK);
    cr_expect_eq(later, version);
    uint64_t next;
    cr_assert_eq(meta_compare_and_set(store, "probe", 0, q_bytes_from_text("x"), &next), Q_OK);
    cr_expect_leq(next, version + 1, "somebody wrote in between");
}

/* A node that comes back under another address is the same node, with the new address. */
Test(meta_nodes, a_restarted_node_keeps_its_record)
{
    cr_expect_eq(register_at("1", "a", "tcp://10.0.0.1:1"), Q_OK);
    cr_expect_str_eq(route_text("orders", true), "a ");
    cr_expect_eq(register_at("1", "a", "tcp://10.0.0.9:9"), Q_OK);
    cr_expect_eq(nodes.count, 1);

    struct meta_route route;
    cr_assert_eq(meta_route_find(&nodes, "orders", false, &route), Q_OK);
    cr_assert_eq(route.group_count, 1);
    cr_expect_str_eq(route.groups[0]->record->address, "tcp://10.0.0.9:9");
}

/* The name of a broker group belongs to one store: another node is told whose it is, and what
 * helps; the owner can't change its own. */
Test(meta_nodes, a_broker_group_has_one_owner)
{
    cr_expect_eq(register_at("1", "a", "tcp://10.0.0.1:1"), Q_OK);
    cr_expect_eq(say_alive("2", "a"), Q_CONFLICT);
    cr_expect(strstr(q_fault_last()->what, "tcp://10.0.0.1:1"));
    cr_expect(strstr(q_fault_last()->what, "--broker-group"));
    cr_expect_eq(register_at("1", "b", "tcp://10.0.0.1:1"), Q_CONFLICT);
    cr_expect(strstr(q_fault_last()->what, "--broker-group a"));
    cr_expect_str_eq(route_text("", false), "a ");
    cr_expect_eq(say_alive("2", "b"), Q_OK);
}

/* A record that can't be right is refused before anything is stored. */
Test(meta_nodes, a_wrong_record_is_refused)
{
    cr_expect_eq(register_at("", "a", "tcp://10.0.0.1:1"), Q_INVALID);
    cr_expect_eq(register_at("1", "a/b", "tcp://10.0.0.1:1"), Q_INVALID);
    cr_expect_eq(register_at("1", "a", "10.0.0.1"), Q_INVALID);
    cr_expect_eq(nodes.count, 0);
}

/* Assignments and nodes outlive a restart of meta; every node gets the time of one expiry to say
 * that it lives, and a route is the same as before. */
Test(meta_nodes, restart_keeps_assignments)
{
    for (char name = 'a'; name <= 'f'; name++)
        cr_expect_eq(say_alive(q_text("%d", name), q_text("%c", name)), Q_OK);
    char before[100];
    (void)snprintf(before, sizeof(before), "%s", route_text("orders", true));
    cr_expect_eq(strlen(before), 4, "two groups, not '%s'", before);
    uint64_t version = route_version("orders");

    close_all();
    open_all();
    cr_expect_str_eq(route_text("orders", false), before);
    cr_expect_eq(route_version("orders"), version);
    cr_expect_str_eq(route_text("orders", true), before);

    pass_ms(META_EXPIRY_MS);
    cr_expect_str_eq(route_text("orders", false), "");
    cr_expect_eq(say_alive(q_text("%d", before[0]), q_text("%c", before[0])), Q_OK);
    cr_expect_str_eq(route_text("orders", false), q_text("%c ", before[0]));
}

/* A subject that nobody is about to use is not assigned by a look at it; one that was assigned
 * when there was one broker group gets the second when there is one. */
/* A node that was dead before the restart is taken for alive after it, but is nobody's home: nothing is
 * assigned until all have said that they live, or their time is over. */
Test(meta_nodes, nothing_is_assigned_while_meta_wakes)
{
    for (char name = 'a'; name <= 'c'; name++)
        cr_expect_eq(say_alive(q_text("%d", name), q_text("%c", name)), Q_OK);
    pass_ms(META_EXPIRY_MS - 1);
    cr_expect_eq(say_alive(q_text("%d", 'a'), "a"), Q_OK);
    cr_expect_eq(say_alive(q_text("%d", 'b'), "b"), Q_OK);
    pass_ms(1);

    close_all();
    open_all();
    cr_expect_eq(say_alive(q_text("%d", 'a'), "a"), Q_OK);
    cr_expect_str_eq(route_text("orders", true), "");
    cr_expect_eq(say_alive(q_text("%d", 'b'), "b"), Q_OK);
    cr_expect_str_eq(route_text("orders", true), "");
    pass_ms(META_EXPIRY_MS - 1);
    cr_expect_eq(say_alive(q_text("%d", 'a'), "a"), Q_OK);
    cr_expect_eq(say_alive(q_text("%d", 'b'), "b"), Q_OK);
    pass_ms(1);
    cr_expect_str_eq(route_text("orders", true), "a b ");
}

Test(meta_nodes, assignment_is_on_use_and_grows_to_two)
{
    cr_expect_str_eq(route_text("orders", true), "");
    cr_expect_eq(say_alive("1", "a"), Q_OK);
    cr_expect_str_eq(route_text("orders", false), "");
    cr_expect_str_eq(route_text("orders", true), "a ");
    cr_expect_eq(say_alive("2", "b"), Q_OK);
    cr_expect_str_eq(route_text("orders", false), "a ");
    cr_expect_str_eq(route_text("orders", true), "a b ");
    cr_expect_eq(say_alive("3", "c"), Q_OK);
    cr_expect_str_eq(route_text("orders", true), "a b ");
}

/* Where the slots of order keys live, "a512 b1024 ". */
static const char *
slots_text(const char *subject)
{
    static char text[1000];
    struct meta_route route;
    cr_assert_eq(meta_route_find(&nodes, subject, true, &route), Q_OK);
    text[0] = '\0';
    for (size_t i = 0; i < route.home_count; i++) {
        size_t at = strlen(text);
        (void)snprintf(
            text + at, sizeof(text) - at, "%s%u ", route.homes[i],
            meta_route_slots_until(&route, i));
    }
    return text;
}

/* Slots of order keys stay where they are, whoever joins, dies or comes back. */
Test(meta_nodes, no_slot_moves)
{
    cr_expect_eq(say_alive("1", "a"), Q_OK);
    cr_expect_str_eq(slots_text("early"), "a1024 ");
    cr_expect_eq(say_alive("2", "b"), Q_OK);
    cr_expect_str_eq(route_text("early", true), "a b ");
    cr_expect_str_eq(slots_text("early"), "a1024 ");

    char before[100];
    (void)snprintf(before, sizeof(before), "%s", slots_text("orders"));
    cr_expect(strcmp(before, "a512 b1024 ") == 0 || strcmp(before, "b512 a1024 ") == 0);
    cr_expect_eq(say_alive("3", "c"), Q_OK);
    cr_expect_str_eq(slots_text("orders"), before);
    close_all();
    open_all();
    cr_expect_str_eq(slots_text("orders"), before);
    pass_ms(META_EXPIRY_MS);
    cr_expect_str_eq(route_text("orders", false), "");
    cr_expect_str_eq(slots_text("orders"), before, "a group that is dead keeps its slots");

    cr_expect_str_eq(slots_text(""), "");
    cr_expect_str_eq(slots_text(META_DELAY_GROUPS), "");
}

/* Subjects are spread evenly: of 300 over 6 groups, two each, every group has its third, give or
 * take a third. */
Test(meta_nodes, subjects_are_spread_evenly)
{
    for (char name = 'a'; name <= 'f'; name++)
        cr_expect_eq(say_alive(q_text("%d", name), q_text("%c", name)), Q_OK);
    unsigned counts[6] = { 0 };
    for (int i = 0; i < 300; i++) {
        struct meta_route route;
        char subject[32];
        (void)snprintf(subject, sizeof(subject), "orders.%d", i);
        cr_assert_eq(meta_route_find(&nodes, subject, true, &route), Q_OK);
        cr_assert_eq(route.group_count, 2);
        for (size_t j = 0; j < route.group_count; j++)
            counts[route.groups[j]->record->broker_group[0] - 'a']++;
    }
    for (int i = 0; i < 6; i++) {
        cr_expect_geq(counts[i], 70);
        cr_expect_leq(counts[i], 130);
    }
}
