/* A module: every section begins at 0. */
static const char vermagic[] __attribute__((section(".modinfo"), used)) =
	"vermagic=6.1.0-test SMP preempt mod_unload ";

extern void report(int value);

static inline __attribute__((always_inline)) void demo_fault(void)
{
	*(volatile int *)16 = 1;
}

__attribute__((noinline)) int demo_read(int value)
{
	demo_fault();
	return value;
}

__attribute__((section(".init.text"))) int demo_init(int value)
{
	report(value);
	return demo_read(value + 1);
}
