#include "play.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "play_inside.h"

const char *const play_groups[REF_GROUPS] = { "g", "h", "every" };

const struct qlog_group_settings play_group_settings[PLAY_SETTINGS] = {
    { .attempts_max = 3,
      .pending_max = 20000,
      .filter_keep_ms = 60 * 1000,
      .backoff_count = 2,
      .backoff_ms = { 1000, 4000 } },
    { .strict = true,
      .attempts_max = 4,
      .pending_max = 20000,
      .filter_keep_ms = 600 * 1000,
      .backoff_count = 3,
      .backoff_ms = { 500, 2000, 60 * 1000 } },
    { .attempts_max = 16,
      .pending_max = 6,
      .filter_keep_ms = 20 * 1000,
      .backoff_count = 1,
      .backoff_ms = { 3000 } },
    { .strict = true,
      .ack_sync = true,
      .attempts_max = 2,
      .pending_max = 9,
      .filter_keep_ms = 45 * 1000,
      .backoff_count = 1,
      .backoff_ms = { 2000 } },
};

static const struct {
    const char *name;
    unsigned often;
    const char *what;
    play_fn *play;
} kinds[] = {
#define PLAY_ROW(name, often, what) { #name, often, what, play_##name },
    PLAY_LIST(PLAY_ROW)
#undef PLAY_ROW
};

static void play_compare(struct play *play);

/* --- Operations as text, and at random. */

struct play_op
play_random(struct random_source *random)
{
    unsigned all = 0;
    for (unsigned i = 0; i < PLAY_KINDS; i++)
        all += kinds[i].often;
    unsigned at = random_below(random, all);
    struct play_op op = { .kind = 0 };
    while (at >= kinds[op.kind].often)
        at -= kinds[op.kind++].often;
    for (unsigned i = 0; i < PLAY_NUMBERS; i++)
        op.numbers[i] = random_below(random, 1000);
    return op;
}

bool
play_parse(const char *line, struct play_op *ret_op)
{
    char name[32];
    int used = 0;
    *ret_op = (struct play_op){ 0 };
    if (sscanf(line, "%31s%n", name, &used) != 1) return false;
    while (ret_op->kind < PLAY_KINDS && strcmp(kinds[ret_op->kind].name, name) != 0)
        ret_op->kind++;
    const char *at = line + used;
    for (unsigned i = 0; i < PLAY_NUMBERS; i++) {
        char *end;
        ret_op->numbers[i] = (uint32_t)strtoul(at, &end, 10);
        at = end;
    }
    return ret_op->kind < PLAY_KINDS;
}

void
play_print(FILE *out, const struct play_op *op)
{
    (void)fprintf(out, "%s", kinds[op->kind].name);
    for (unsigned i = 0; i < PLAY_NUMBERS; i++)
        (void)fprintf(out, " %u", op->numbers[i]);
    (void)fprintf(out, "\n");
}

/* --- Play. */

int
play(
    struct ramdisk *disk,
    const struct play_op *ops,
    unsigned count,
    FILE *told,
    char text[PLAY_TEXT_MAX])
{
    static struct play play;
    memset(&play, 0, sizeof(play));
    play.told = told;
    play.text = text;
    play.plain = true;
    text[0] = '\0';
    machine_start(&play.machine, disk, REF_KEEP_MS);
    play.ref.dead = play.dead;
    play.ref.dead_max = PLAY_DEAD_MAX;
    play.ref.state.now_ms = play.machine.clock.wall_ms;
    play.ref.state.generation = machine_generation(&play.machine);
    play.durable = play.ref.state;
    play.tail = machine_actions_end(&play.machine);
    int failed = -1;
    for (unsigned i = 0; i < count && failed < 0; i++) {
        if (told != NULL) (void)fprintf(told, "%4u  ", i);
        if (told != NULL) play_print(told, &ops[i]);
        kinds[ops[i].kind].play(&play, &ops[i]);
        if (text[0] == '\0') play_compare(&play);
        if (text[0] != '\0') failed = (int)i;
    }
    machine_stop(&play.machine);
    return failed;
}

void
play_differ(struct play *play, const char *format, ...)
{
    if (play->text[0] != '\0') return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(play->text, PLAY_TEXT_MAX, format, args);
    va_end(args);
}

void
play_tell(struct play *play, const char *format, ...)
{
    if (play->told == NULL) return;
    va_list args;
    va_start(args, format);
    (void)fprintf(play->told, "          ");
    (void)vfprintf(play->told, format, args);
    (void)fprintf(play->told, "\n");
    va_end(args);
}

bool
play_same_err(struct play *play, const char *what, enum q_err machine, enum q_err model)
{
    play_tell(play, "%s: %s", what, q_err_name(machine));
    if (machine != model)
        play_differ(
            play, "%s: the machine answers %s, the model %s", what, q_err_name(machine),
            q_err_name(model));
    return machine == Q_OK && model == Q_OK;
}

/* --- Groups are held against each other after each operation. */

static void
compare_group(struct play *play, uint32_t number)
{
    const struct ref_group *group = &play->ref.state.groups[number];
    struct qlog_lag lag = {
        .request = { .kind = QLOG_LAG },
        .subject = q_bytes_from_text(machine_subject),
        .group = q_bytes_from_text(play_groups[number]),
    };
    enum q_err err = machine_run(&play->machine, &lag.request);
    if ((err == Q_OK) != group->exists) {
        play_differ(play, "group %s: %s", play_groups[number], q_err_name(err));
        return;
    }
    if (err != Q_OK) return;
    struct ref_lag model = ref_lag(&play->ref, number);
    SAME(play, "lag: cursor", lag.cursor, group->cursor);
    SAME(play, "lag: epoch", lag.epoch, group->epoch);
    SAME(play, "lag: waiting", lag.waiting, model.waiting);
    SAME(play, "lag: in flight", lag.in_flight, model.in_flight);
    SAME(play, "lag: pending, retry", lag.pending_retry, model.pending[REF_RETRY]);
    SAME(play, "lag: pending, released", lag.pending_released, model.pending[REF_RELEASED]);
    SAME(play, "lag: pending, key", lag.pending_key, model.pending[REF_KEY]);
    SAME(play, "lag: pending, filter", lag.pending_filter, model.pending[REF_FILTER]);
    SAME(play, "lag: pending, dying", lag.pending_dying, model.pending[REF_DYING]);
    SAME(play, "lag: ready", lag.ready, model.ready);
    SAME(play, "lag: dead", lag.dead, group->dead);
    SAME(play, "lag: expired", lag.expired, group->expired);
    SAME(play, "lag: skipped", lag.skipped, group->skipped);
    SAME(play, "lag: paused", lag.paused, group->paused);
    SAME(play, "lag: broadcast", lag.broadcast, group->broadcast);
    SAME(play, "lag: held", lag.held, model.held);
    SAME(play, "lag: members", lag.member_count, model.members);
    SAME(play, "lag: filters", lag.filter_count, model.filters);
    SAME(play, "lag: consumers", lag.consumer_count, model.consumers);
    SAME(play, "lag: attempts", lag.settings.attempts_max, group->settings.attempts_max);
    /* What is dropped at the cursor is found out when the cursor passes it. */
    if (group->cursor >= play->ref.state.first) SAME(play, "lag: oldest", lag.oldest, model.oldest);
}

static void
compare_dead(struct play *play, uint32_t group)
{
    for (; play->dead_seen[group] < play->ref.dead_count; play->dead_seen[group]++) {
        const struct ref_dead *model = &play->dead[play->dead_seen[group]];
        if (model->group != group) continue;
        struct machine_dead dead;
        char error[16] = "";
        if (model->error != 0) (void)snprintf(error, sizeof(error), "error %u", model->error);
        if (!machine_next_dead(&play->machine, play_groups[group], &play->dead_at[group], &dead)) {
            play_differ(
                play, "no dead letter of message %llu", (unsigned long long)model->sequence);
            return;
        }
        SAME(play, "dead letter: sequence", dead.sequence, model->sequence);
        SAME(play, "dead letter: failed", dead.failed, model->failed);
        SAME(play, "dead letter: timed out", dead.timed_out, model->timed_out);
        SAME(play, "dead letter: died", dead.died, model->died);
        SAME(play, "dead letter: expired", dead.expired, model->expired);
        SAME(
            play, "dead letter: attempts", dead.attempts,
            model->failed + model->timed_out + model->died);
        if (strcmp(dead.error, error) != 0)
            play_differ(play, "dead letter: error \"%s\" instead of \"%s\"", dead.error, error);
    }
}

static void
play_compare(struct play *play)
{
    machine_check(&play->machine);
    for (uint32_t i = 0; i < REF_GROUPS; i++) {
        compare_group(play, i);
        compare_dead(play, i);
    }
    play->tail = machine_actions_end(&play->machine);
    if (!machine_is_flushed(&play->machine)) return;
    play->durable = play->ref.state;
    play->log_count = 0;
    play->plain = true;
}
