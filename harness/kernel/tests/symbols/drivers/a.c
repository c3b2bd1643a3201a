/* One of two functions of the same name, told apart by their size. */
static __attribute__((noinline)) int type_show(int value)
{
	asm volatile("nop; nop; nop; nop");
	return value + 1;
}

int drv_a(int value)
{
	return type_show(value) * 3;
}
