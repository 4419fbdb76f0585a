/*
 * 02-many-at-once: many appends under way at the same time.
 *
 *     ./02-many-at-once DIR
 *
 * An append is a struct of the caller's. Those that are submitted together share a write and a
 * flush, so that 100,000 durable records cost a few hundred of each. `done` is called from
 * qlog_turn(), in the order of the log.
 */
#include <stdio.h>
#include <string.h>

#include <qlog/log.h>

enum {
    RECORDS = 100000,
    UNDER_WAY = 1000,
};

struct slot {
    struct qlog_append append; /* given to `done`, which finds the slot around it */
    char text[32];
    struct state *state;
};

struct state {
    struct slot slots[UNDER_WAY];
    struct slot *free[UNDER_WAY];
    int free_count;
    int next;
    int durable;
    enum q_err err;
};

static void
on_durable(struct qlog_append *append, enum q_err err)
{
    struct slot *slot = append->context;
    struct state *state = slot->state;
    if (err != Q_OK) state->err = err;
    state->durable++;
    state->free[state->free_count++] = slot;
}

static enum q_err
submit_next(struct qlog *log, struct state *state)
{
    struct slot *slot = state->free[state->free_count - 1];
    int size = snprintf(slot->text, sizeof(slot->text), "record %d", state->next);
    slot->append = (struct qlog_append){
        .data = slot->text,
        .size = (size_t)size,
        .done = on_durable,
        .context = slot,
    };
    enum q_err err = qlog_submit(log, &slot->append);
    if (err != Q_OK) return err;
    state->free_count--;
    state->next++;
    return Q_OK;
}

/* Sleep only when no slot was given back: there is something to submit then. */
static enum q_err
run_log(struct qlog *log, const struct state *state)
{
    int durable = state->durable;
    enum q_err err = qlog_turn(log);
    if (err != Q_OK || state->durable > durable) return err;
    return qlog_wait(log, UINT64_MAX);
}

int
main(int argc, char **argv)
{
    static struct state state;
    for (int i = 0; i < UNDER_WAY; i++) {
        state.slots[i].state = &state;
        state.free[state.free_count++] = &state.slots[i];
    }
    struct qlog *log;
    enum q_err err =
        qlog_open(argc > 1 ? argv[1] : "log", &(struct qlog_options){ .create = true }, &log);
    if (err == Q_OK) {
        while (err == Q_OK && state.err == Q_OK && state.durable < RECORDS) {
            if (state.free_count > 0 && state.next < RECORDS)
                err = submit_next(log, &state);
            else
                err = run_log(log, &state);
        }
        (void)printf("%d records are durable\n", state.durable);
        /* Whatever is still under way is finished, or refused, in here. */
        enum q_err close_err = qlog_close(log);
        if (err == Q_OK) err = state.err != Q_OK ? state.err : close_err;
    }
    if (err == Q_OK) return 0;
    char text[Q_FAULT_LINE_MAX];
    (void)fprintf(stderr, "%s\n", q_fault_format(q_fault_last(), text, sizeof(text)));
    return 1;
}
