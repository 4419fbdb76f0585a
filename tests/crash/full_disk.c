/*
 * full-disk: fill the disk, be refused, drain, go on; again and again.
 *
 *   full-disk [--cycles N] [--seed S] [--bytes N] [--dir D] [--quota]
 *
 * Works on an ext4 of 64 MiB behind a loop device, where this process may mount one; else with a
 * quota of its own, and says so. Each cycle publishes until the disk is full, pulls and acknowledges
 * while it is, drains all groups (now and then but one, whose messages must stay), and wants publishes
 * to be taken again by themselves. The store is killed, or stopped, and started in any of these states.
 *
 * All that was acknowledged must come to each group, once, in order, with the right bytes.
 *
 * Ends with `cycles N  refused R  lost 0  phantom 0  failed 0  (seed S)`; exit 1 when one of the three
 * is not 0.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbase/opts.h>
#include <qbatch/build.h>

#include "full_disk_node.h"
#include "store/store.h"

enum {
    MIB = 1024 * 1024,
    RESUME_S_MAX = 30,
    CONSUMER_TIMEOUT_H = 24 * 365,
};

struct settings {
    uint64_t cycles;
    uint64_t seed;
    uint64_t bytes;
    const char *directory;
    bool quota;
};

static bool parse(int argc, char **argv, struct settings *settings);
static void node_init(struct node *node, const struct settings *settings);
static bool cycle(struct node *node);
static void fill(struct node *node);
static void work_while_full(struct node *node);
static void drain(struct node *node);
static void resume(struct node *node);
static bool perhaps_restart(struct node *node, uint32_t one_in);

static volatile sig_atomic_t interrupted;

static void
on_signal(int number)
{
    interrupted = number;
}

int
main(int argc, char **argv)
{
    struct settings settings = {
        .cycles = 3,
        .seed = 1,
        .bytes = 64 * (uint64_t)MIB,
        .directory = "/tmp",
    };
    if (!parse(argc, argv, &settings)) return 2;
    (void)signal(SIGINT, on_signal);
    (void)signal(SIGTERM, on_signal);
    static struct node node;
    if (!place_make(&node.place, settings.directory, settings.bytes, !settings.quota)) {
        perror(settings.directory);
        return 1;
    }
    if (node.place.loop)
        (void)fprintf(
            stderr, "ext4 of %llu MiB on a loop device\n",
            (unsigned long long)settings.bytes / MIB);
    else
        (void)fprintf(
            stderr, "quota of %llu MiB; no loop device: %s\n",
            (unsigned long long)settings.bytes / MIB, node.place.why_not);
    node_init(&node, &settings);
    uint64_t cycles = 0;
    bool good = node_open(&node);
    for (; good && interrupted == 0 && cycles < settings.cycles; cycles++)
        good = cycle(&node);
    node_close(&node);
    qbatch_builder_free(node.builder);
    place_remove(&node.place);
    (void)fprintf(
        stderr, "%llu publishes of %llu MiB kept; %llu refusals at the hard level; %llu drops\n",
        (unsigned long long)node.kept, (unsigned long long)node.kept_bytes / MIB,
        (unsigned long long)node.refused_hard, (unsigned long long)node.dropped);
    (void)printf(
        "cycles %llu  refused %llu  lost %llu  phantom %llu  failed %llu  (seed %llu)\n",
        (unsigned long long)cycles, (unsigned long long)node.refused,
        (unsigned long long)node.truth.lost, (unsigned long long)node.truth.phantom,
        (unsigned long long)node.truth.failed, (unsigned long long)settings.seed);
    bool wrong = node.truth.lost + node.truth.phantom + node.truth.failed > 0;
    truth_free(&node.truth);
    return wrong || interrupted != 0 ? 1 : 0;
}

static bool
parse(int argc, char **argv, struct settings *settings)
{
    const struct q_opt options[] = {
        { "cycles", 0, Q_OPT_NUMBER, &settings->cycles, "N", "times the disk fills up (3)", 1, 0 },
        { "seed", 0, Q_OPT_NUMBER, &settings->seed, "S", "of all that is random but time", 0, 0 },
        { "bytes", 0, Q_OPT_SIZE, &settings->bytes, "N", "of the disk (64MiB)", 32 * MIB, 0 },
        { "dir", 0, Q_OPT_TEXT, &settings->directory, "DIR", "where to work (/tmp)", 0, 0 },
        { "quota", 0, Q_OPT_FLAG, &settings->quota, NULL, "no loop device, even if we may", 0, 0 },
    };
    size_t option_count = sizeof(options) / sizeof(options[0]);
    struct q_opts_result result;
    if (q_opts_parse(options, option_count, argc, argv, &result) != Q_OK) {
        (void)fprintf(stderr, "full-disk: %s\n", result.error);
        return false;
    }
    if (!result.help) return true;
    q_opts_print_help(stdout, options, option_count);
    exit(0);
}

static void
node_init(struct node *node, const struct settings *settings)
{
    node->random = random_from_seed(settings->seed);
    (void)snprintf(node->directory, sizeof(node->directory), "%s/store", node->place.directory);
    q_clock_manual_init(&node->clock);
    node->clock.wall_ms = 1700000000000;
    node->options = (struct qlog_store_options){
        .log = {
            .segment_bytes = (1 + random_below(&node->random, 2)) * (uint64_t)MIB,
            .frame_bytes_max = 256 * 1024,
            .create = true,
        },
        .consumer_timeout_ns = CONSUMER_TIMEOUT_H * 3600ull * Q_NS_PER_S,
        .retention_ms = UINT64_MAX,
        .retention_consumed = random_below(&node->random, 2) == 0,
    };
    struct qbatch_builder_options options = { .bytes_max = PUBLISH_BYTES_MAX };
    Q_ASSERT(qbatch_builder_new(&options, &node->builder) == Q_OK);
}

static bool
cycle(struct node *node)
{
    uint64_t failed = node->truth.failed;
    fill(node);
    if (!perhaps_restart(node, 4)) return false;
    work_while_full(node);
    if (!perhaps_restart(node, 4)) return false;
    drain(node);
    if (!perhaps_restart(node, 8)) return false;
    resume(node);
    return node->truth.failed == failed;
}

static bool
perhaps_restart(struct node *node, uint32_t one_in)
{
    if (random_below(&node->random, one_in) != 0) return true;
    return node_restart(node, random_below(&node->random, 2) == 0);
}

/* Until a publish is refused. When time stands still, nobody looks at the level before the last
 * segment is taken. */
static void
fill(struct node *node)
{
    bool time_passes = random_below(&node->random, 4) != 0;
    uint64_t refused = node->refused;
    uint64_t bytes = node->kept_bytes;
    while (node->refused == refused) {
        while (random_below(&node->random, 4) != 0 && node_publish(node) != NULL)
            continue;
        if (!node_turn(node)) return;
        if (time_passes && random_below(&node->random, 8) == 0)
            q_clock_manual_advance_ns(
                &node->clock, random_below(&node->random, 400) * (uint64_t)Q_NS_PER_MS);
        if (random_below(&node->random, 64) == 0)
            (void)node_consume(
                node, random_below(&node->random, SUBJECTS), random_below(&node->random, GROUPS));
        if (node->kept_bytes - bytes > 8 * node->place.bytes) {
            truth_fail(&node->truth, "a full disk refuses nothing");
            return;
        }
    }
    /* Sometimes what is under way stays so. */
    if (random_below(&node->random, 2) == 0) node_wait_publishes(node);
}

static void
work_while_full(struct node *node)
{
    uint32_t rounds = random_below(&node->random, 4);
    for (uint32_t i = 0; i < rounds; i++) {
        (void)node_publish_one(node);
        for (unsigned j = 0; j < SUBJECTS; j++)
            for (unsigned k = 0; k < GROUPS; k++)
                (void)node_consume(node, j, k);
        if (random_below(&node->random, 2) == 0)
            node_pass_ms(node, random_below(&node->random, 3000));
    }
}

static void
drain(struct node *node)
{
    bool slow = random_below(&node->random, 3) == 0;
    unsigned slow_subject = random_below(&node->random, SUBJECTS);
    unsigned slow_group = random_below(&node->random, GROUPS);
    if (random_below(&node->random, 2) == 0) {
        node_hold(node, random_below(&node->random, SUBJECTS), 0);
        node_pass_ms(node, 2000);
    }
    for (unsigned i = 0; i < SUBJECTS; i++)
        for (unsigned j = 0; j < GROUPS; j++) {
            if (slow && i == slow_subject && j == slow_group) continue;
            node_drain(node, i, j);
            if (random_below(&node->random, 2) == 0) node_pass_ms(node, 1000);
        }
    if (!slow) return;
    node_pass_ms(node, 5000);
    if (!perhaps_restart(node, 4)) return;
    node_drain(node, slow_subject, slow_group);
}

static void
resume(struct node *node)
{
    node_let_go(node);
    for (unsigned i = 0; i < RESUME_S_MAX; i++) {
        if (node_publish_one(node) == Q_OK) return;
        node_pass_ms(node, 1000);
    }
    truth_fail(&node->truth, "publishes are not taken again after %u s", (unsigned)RESUME_S_MAX);
}
