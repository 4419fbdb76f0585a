/*
 * The intrusive list.
 */
#include <criterion/criterion.h>

#include <qbase/list.h>

struct item {
    int number;
    struct q_list link;
};

static int
sum_in_order(const struct q_list *head)
{
    int sum = 0;
    q_list_for_each(at, head)
        sum = sum * 10 + q_container_of(at, struct item, link)->number;
    return sum;
}

/* Nodes stand in the order in which they were put, and leave from the front. */
Test(base_list, order)
{
    struct q_list head = Q_LIST_INIT(head);
    struct item items[3] = { { .number = 1 }, { .number = 2 }, { .number = 3 } };
    cr_assert(q_list_is_empty(&head));
    cr_assert_null(q_list_pop_front(&head));
    q_list_push_back(&head, &items[1].link);
    q_list_push_back(&head, &items[2].link);
    q_list_push_front(&head, &items[0].link);
    cr_assert_eq(sum_in_order(&head), 123);
    cr_assert_eq(q_list_pop_front(&head), &items[0].link);
    cr_assert_eq(sum_in_order(&head), 23);
}

/* A node knows whether it is in a list, and removing it twice does no harm. */
Test(base_list, remove_twice)
{
    struct q_list head = Q_LIST_INIT(head);
    struct item item = { .number = 1 };
    q_list_push_back(&head, &item.link);
    cr_assert(q_list_is_linked(&item.link));
    q_list_remove(&item.link);
    q_list_remove(&item.link);
    cr_assert_not(q_list_is_linked(&item.link));
    cr_assert(q_list_is_empty(&head));
}

/* Splicing moves all nodes to the end, and leaves the other list empty and usable. */
Test(base_list, splice)
{
    struct q_list to = Q_LIST_INIT(to);
    struct q_list from = Q_LIST_INIT(from);
    struct item items[4] = { { .number = 1 }, { .number = 2 }, { .number = 3 }, { .number = 4 } };
    q_list_splice_back(&to, &from);
    cr_assert(q_list_is_empty(&to));
    for (int i = 0; i < 4; i++)
        q_list_push_back(i < 2 ? &to : &from, &items[i].link);
    q_list_splice_back(&to, &from);
    cr_assert_eq(sum_in_order(&to), 1234);
    cr_assert(q_list_is_empty(&from));
    q_list_splice_back(&from, &to);
    cr_assert_eq(sum_in_order(&from), 1234);
}

/* A node may be removed while the list is walked. */
Test(base_list, remove_inside_loop)
{
    struct q_list head = Q_LIST_INIT(head);
    struct item items[4] = { { .number = 1 }, { .number = 2 }, { .number = 3 }, { .number = 4 } };
    for (int i = 0; i < 4; i++)
        q_list_push_back(&head, &items[i].link);
    q_list_for_each_safe(at, &head) {
        if (q_container_of(at, struct item, link)->number % 2 == 0) q_list_remove(at);
    }
    cr_assert_eq(sum_in_order(&head), 13);
}
