"""The admin site's view of the models."""

from django.contrib import admin

from shop.models import User


@admin.register(User)
class UserAdmin(admin.ModelAdmin):
    list_display = ["email", "name", "country", "version"]
    list_filter = ["country", "tenant"]
    search_fields = ["email", "name"]
    ordering = ["email"]
    list_per_page = 5
