/* A kernel of a few functions: what symbols.rs is tested with. See build.sh. */
const char linux_banner[] = "Linux version 6.1.0-test (builder@host) #1\n";

extern int drv_a(int), drv_b(int);

__attribute__((noinline)) void report(int value)
{
	asm volatile("" : : "r"(value));
}

static inline __attribute__((always_inline)) void check(int value)
{
	if (value > 3)
		report(value);
}

static inline __attribute__((always_inline)) void check_both(int a, int b)
{
	check(a);
	check(b);
}

__attribute__((noinline)) int outer(int a, int b)
{
	check_both(a, b);
	return a + b;
}

__attribute__((noreturn, noinline)) void stop(void)
{
	for (;;)
		asm volatile("hlt");
}

__attribute__((noreturn, noinline)) void give_up(int value)
{
	report(value);
	stop();
}

__attribute__((section(".init.text"))) int start_kernel(int a)
{
	outer(drv_a(a), drv_b(a));
	give_up(a);
}
