/*
 * The inbox of a thread: in order, bounded, and never slept over.
 */
#include <criterion/criterion.h>

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

#include <qbase/mailbox.h>

enum {
    SENDERS = 3,
    LETTERS = 20000,
    BOX = 64
};

struct letter {
    struct q_mailbox_node node;
    int sender;
    int number;
};

struct sender {
    struct q_mailbox *mailbox;
    sem_t *bell;
    int number;
    struct letter letters[LETTERS];
};

static void *send_all(void *context);

/* What was pushed is taken once, oldest first. */
Test(base_mailbox, order)
{
    struct q_mailbox mailbox;
    struct letter letters[3] = { 0 };
    bool wake = true;
    q_mailbox_init(&mailbox, BOX);
    cr_assert_null(q_mailbox_take(&mailbox));
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(q_mailbox_push(&mailbox, &letters[i].node, &wake), Q_OK);
        cr_assert_not(wake);
    }
    const struct q_mailbox_node *node = q_mailbox_take(&mailbox);
    for (int i = 0; i < 3; i++, node = node->next)
        cr_assert_eq(node, &letters[i].node);
    cr_assert_null(node);
    cr_assert_null(q_mailbox_take(&mailbox));
    q_mailbox_fini(&mailbox);
}

/* A full mailbox answers BUSY, and has room again once it was emptied. */
Test(base_mailbox, bounded)
{
    struct q_mailbox mailbox;
    struct letter letters[3] = { 0 };
    bool wake = false;
    q_mailbox_init(&mailbox, 2);
    for (int round = 0; round < 3; round++) {
        cr_assert_eq(q_mailbox_push(&mailbox, &letters[0].node, &wake), Q_OK);
        cr_assert_eq(q_mailbox_push(&mailbox, &letters[1].node, &wake), Q_OK);
        cr_assert_eq(q_mailbox_push(&mailbox, &letters[2].node, &wake), Q_BUSY);
        cr_assert_not_null(q_mailbox_take(&mailbox));
    }
    q_mailbox_fini(&mailbox);
}

/* Only the first push after the owner fell asleep wakes it; with something there it can't sleep. */
Test(base_mailbox, wakes_once)
{
    struct q_mailbox mailbox;
    struct letter letters[3] = { 0 };
    bool wake = false;
    q_mailbox_init(&mailbox, BOX);
    cr_assert(q_mailbox_sleep(&mailbox));
    cr_assert_eq(q_mailbox_push(&mailbox, &letters[0].node, &wake), Q_OK);
    cr_assert(wake);
    cr_assert_eq(q_mailbox_push(&mailbox, &letters[1].node, &wake), Q_OK);
    cr_assert_not(wake);
    q_mailbox_awake(&mailbox);
    cr_assert_not(q_mailbox_sleep(&mailbox));
    q_mailbox_awake(&mailbox);
    cr_assert_eq(q_mailbox_push(&mailbox, &letters[2].node, &wake), Q_OK);
    cr_assert_not(wake);
    cr_assert_not_null(q_mailbox_take(&mailbox));
    q_mailbox_fini(&mailbox);
}

/*
 * With several senders and an owner that sleeps whenever it can, every letter arrives, each
 * sender's in order. If a wake-up were lost, the owner would sleep for ever.
 */
Test(base_mailbox, threads, .timeout = 60)
{
    static struct sender senders[SENDERS];
    struct q_mailbox mailbox;
    sem_t bell;
    pthread_t threads[SENDERS];
    q_mailbox_init(&mailbox, BOX);
    cr_assert_eq(sem_init(&bell, 0, 0), 0);
    for (int i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){ .mailbox = &mailbox, .bell = &bell, .number = i };
        cr_assert_eq(pthread_create(&threads[i], NULL, send_all, &senders[i]), 0);
    }

    int next[SENDERS] = { 0 };
    for (int got = 0; got < SENDERS * LETTERS;) {
        struct q_mailbox_node *node = q_mailbox_take(&mailbox);
        if (!node) {
            if (q_mailbox_sleep(&mailbox)) sem_wait(&bell);
            q_mailbox_awake(&mailbox);
        }
        for (; node; node = node->next, got++) {
            const struct letter *letter = (const struct letter *)node;
            cr_assert_eq(letter->number, next[letter->sender]++);
        }
    }
    for (int i = 0; i < SENDERS; i++)
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    cr_assert_null(q_mailbox_take(&mailbox));
    q_mailbox_fini(&mailbox);
    sem_destroy(&bell);
}

static void *
send_all(void *context)
{
    struct sender *sender = context;
    for (int i = 0; i < LETTERS; i++) {
        struct letter *letter = &sender->letters[i];
        bool wake = false;
        letter->sender = sender->number;
        letter->number = i;
        while (q_mailbox_push(sender->mailbox, &letter->node, &wake) == Q_BUSY)
            sched_yield();
        if (wake) sem_post(sender->bell);
    }
    return NULL;
}
