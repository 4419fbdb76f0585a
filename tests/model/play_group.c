/*
 * play_group.c: time, groups as a whole, stops and starts.
 */
#include "play_inside.h"

enum {
    ROUNDS_MAX = 10000
};

/* --- Time. */

static void
time_passes(struct play *play, uint64_t ms)
{
    uint64_t until_ms = play->ref.state.now_ms + ms;
    play->plain = false;
    while (play->ref.state.now_ms < until_ms) {
        uint64_t next_ms = q_min_u64(until_ms, ref_next_ms(&play->ref, true));
        machine_time(&play->machine, next_ms);
        ref_time(&play->ref, next_ms);
    }
}

void
play_time(struct play *play, const struct play_op *op)
{
    static const uint32_t most_ms[] = { 100, 3000, 3000, 10000, 35000 };
    time_passes(play, 1 + op->numbers[0] * most_ms[op->numbers[1] % 5] / 1000);
}

void
play_long_time(struct play *play, const struct play_op *op)
{
    time_passes(play, (1 + op->numbers[0] % 15) * UINT64_C(60000));
}

void
play_days(struct play *play, const struct play_op *op)
{
    time_passes(play, (1 + op->numbers[0] % 30) * UINT64_C(7200000));
}

/* --- Groups as a whole. */

static void
control(struct play *play, uint32_t group, struct qlog_control *request)
{
    request->request.kind = QLOG_CONTROL;
    request->subject = q_bytes_from_text(machine_subject);
    request->group = q_bytes_from_text(play_groups[group]);
    enum q_err err = machine_run(&play->machine, &request->request);
    bool by_time = request->kind == QLOG_CONTROL_SEEK && request->start == QLOG_START_TIME;
    if (by_time && err == Q_OK) {
        play_check_start(play, request->at, request->cursor);
        request->start = QLOG_START_SEQUENCE;
        request->at = request->cursor;
    }
    struct ref_answer model = ref_control(&play->ref, group, request);
    play->plain = false;
    if (!play_same_err(play, "control", err, model.err)) return;
    if (request->kind == QLOG_CONTROL_DELETE) return;
    SAME(play, "control: affected", request->affected, model.affected);
    SAME(play, "control: cursor", request->cursor, model.cursor);
    SAME(play, "control: epoch", request->epoch, model.epoch);
}

static struct qlog_range
below_cursor(const struct play *play, const struct play_op *op)
{
    uint64_t cursor = play->ref.state.groups[op->numbers[0] % REF_GROUPS].cursor;
    uint64_t first = cursor - q_min_u64(cursor, op->numbers[1] % 12);
    return (struct qlog_range){ first, first + op->numbers[2] % 6 };
}

void
play_seek(struct play *play, const struct play_op *op)
{
    static const enum qlog_start starts[] = {
        QLOG_START_EARLIEST,
        QLOG_START_LATEST,
        QLOG_START_SEQUENCE,
        QLOG_START_TIME,
    };
    struct qlog_control request = {
        .kind = QLOG_CONTROL_SEEK,
        .start = starts[op->numbers[1] % 4],
        .at = op->numbers[2] % (play->ref.state.end + 2),
    };
    if (request.start == QLOG_START_TIME) request.at = play_moment_ms(play, op->numbers[2]);
    control(play, op->numbers[0] % REF_GROUPS, &request);
}

void
play_skip(struct play *play, const struct play_op *op)
{
    struct qlog_control request = {
        .kind = QLOG_CONTROL_SKIP,
        .range = below_cursor(play, op),
    };
    control(play, op->numbers[0] % REF_GROUPS, &request);
}

void
play_resend(struct play *play, const struct play_op *op)
{
    struct qlog_control request = {
        .kind = QLOG_CONTROL_RESEND,
        .range = below_cursor(play, op),
    };
    control(play, op->numbers[0] % REF_GROUPS, &request);
}

void
play_pause(struct play *play, const struct play_op *op)
{
    struct qlog_control request = { .kind = QLOG_CONTROL_PAUSE };
    control(play, op->numbers[0] % REF_GROUPS, &request);
}

void
play_resume(struct play *play, const struct play_op *op)
{
    struct qlog_control request = { .kind = QLOG_CONTROL_RESUME };
    control(play, op->numbers[0] % REF_GROUPS, &request);
}

void
play_settings(struct play *play, const struct play_op *op)
{
    struct qlog_control request = {
        .kind = QLOG_CONTROL_SETTINGS,
        .settings = play_group_settings[op->numbers[1] % PLAY_SETTINGS],
    };
    control(play, op->numbers[0] % REF_GROUPS, &request);
}

void
play_remove(struct play *play, const struct play_op *op)
{
    struct qlog_control request = { .kind = QLOG_CONTROL_DELETE };
    control(play, op->numbers[0] % REF_GROUPS, &request);
}

void
play_trim(struct play *play, const struct play_op *op)
{
    (void)op;
    struct qlog_trim trim = {
        .request = { .kind = QLOG_TRIM },
        .messages_before = { INT64_MAX },
        .actions_before = { INT64_MAX },
    };
    enum q_err err = machine_run(&play->machine, &trim.request);
    play_same_err(play, "trim", err, Q_OK);
    ref_trim(&play->ref, machine_first(&play->machine));
    play->plain = false;
}

/* --- Stops and starts. */

void
play_restart(struct play *play, const struct play_op *op)
{
    (void)op;
    uint64_t before = machine_state_hash(&play->machine);
    machine_restart(&play->machine, MACHINE_CLOSED);
    SAME(
        play, "state hash of the same state, replayed", machine_state_hash(&play->machine), before);
    uint64_t generation = machine_generation(&play->machine);
    SAME(play, "generation after a clean stop", generation, play->ref.state.generation);
    ref_restart(&play->ref, generation);
    play->plain = false;
}

void
play_kill(struct play *play, const struct play_op *op)
{
    (void)op;
    machine_restart(&play->machine, MACHINE_KILLED);
    ref_restart(&play->ref, machine_generation(&play->machine));
    play->plain = false;
}

void
play_power(struct play *play, const struct play_op *op)
{
    (void)op;
    /* What can't be told apart again is flushed first. */
    for (unsigned i = 0; !play->plain && i < ROUNDS_MAX && !machine_is_flushed(&play->machine); i++)
        time_passes(play, 250);
    if (!play->plain) {
        play->durable = play->ref.state;
        play->log_count = 0;
    }
    uint64_t end = play->ref.state.end;
    uint64_t now_ms = play->ref.state.now_ms;
    machine_restart(&play->machine, MACHINE_LOST);
    uint64_t tail = machine_actions_end(&play->machine);
    play->ref.state = play->durable;
    uint32_t kept = 0;
    while (kept < play->log_count && play->log[kept].tail <= tail) {
        play->ref.state.now_ms = play->log[kept].now_ms;
        play->ref.state.end = play->log[kept].end;
        play_again(play, &play->log[kept++]);
    }
    play_tell(play, "power: %u of %u operations are there", kept, play->log_count);
    play->ref.state.now_ms = now_ms;
    play->ref.state.end = end;
    ref_restart(&play->ref, machine_generation(&play->machine));
    play->plain = false;
}
