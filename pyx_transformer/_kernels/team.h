/* What a thread that calls the kernels knows of the threads that help it. */

#include <time.h>
#if defined(_OPENMP)
#include <omp.h>
#include <pthread.h>
#endif

struct Team {
    int size;      /* threads of its last parallel region; 0 before the first */
    double credit; /* seconds that regions won beside one thread, and lose before they are given up */
    double alone;  /* seconds that this thread is to work alone before others are tried again, */
    double until;  /* or the time by which they are, whichever comes first */
};

static struct Team *own_team(void) {
    static __thread struct Team team = {0, 0.0, 0.0, 0.0};
    return &team;
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Give up the others for so many seconds of work: one loss, of a machine that stood still for a
 * moment, is not to be felt for minutes by who calls now and then. */
static void work_alone(struct Team *team, double seconds) {
    team->alone = seconds;
    team->until = seconds_now() + 5.0;
}

static int works_alone(struct Team *team) {
    if (team->alone > 0.0 && seconds_now() > team->until)
        team->alone = 0.0;
    return team->alone > 0.0;
}

/* Whether it is the first time in this process that threads are not to be had. */
static int is_first_refusal(void) {
    static int refused;
    return !__atomic_exchange_n(&refused, 1, __ATOMIC_RELAXED);
}

#if defined(_OPENMP)
static void *pass(void *gate) {
    pthread_mutex_lock((pthread_mutex_t *)gate);
    pthread_mutex_unlock((pthread_mutex_t *)gate);
    return NULL;
}

/* Whether so many threads more, up to 1024, are to be had at once: OpenMP, asked for threads that
 * it cannot start, ends the process. */
static int can_start(int count) {
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_t threads[1024];
    int started = 0, i;
    pthread_mutex_lock(&gate);
    while (started < count && pthread_create(&threads[started], NULL, pass, &gate) == 0)
        started++;
    pthread_mutex_unlock(&gate);
    for (i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    return started == count;
}

/* End the threads that wait for work; the next region starts them again. Clang's OpenMP library
 * looks after forks itself. */
static void end_team(void) {
    own_team()->size = 0;
#if !defined(__clang__) && __GNUC__ >= 9
    omp_pause_resource_all(omp_pause_hard);
#endif
}
#else /* parts follow one another */
static int can_start(int count) {
    (void)count;
    return 1;
}
static void end_team(void) {}
#endif
